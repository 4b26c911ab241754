"""Linear attention: the recurrences of our options and those of `transformers`, and what they claim to compute.

Beside queries, keys and values they take a decay and a write strength for each head and token, which are drawn once for
each length, and whose gradients belong to the backward pass. Keys of the delta rule are scaled to length one, and
queries by 1 / sqrt(D), within the call.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from ablab.bench.attention.implementation import Attention, Expected, Family, Implementation, Setting
from ablab.config import conf_folder
from ablab.model.spec import LayerSpec

BLOCK = 256  # tokens that the definition takes at one time
STEPS = (1e-3, 1e-1)  # sizes that are drawn, as the options' own are at first


def implementations(setting: Setting) -> list[Implementation]:
    """Our own."""
    return [_made("gated-delta", True, "gated_delta", _OurDelta), _made("mamba2", True, "mamba2", _OurStateSpace)]


def peers(setting: Setting) -> list[Implementation]:
    """Those of `transformers`, in plain torch. Raises ImportError where the package is missing."""
    import_module("transformers.models.qwen3_next.modeling_qwen3_next")
    import_module("transformers.models.mamba2.modeling_mamba2")
    return [
        _made("transformers-gated-delta", False, "gated_delta", _TransformersDelta),
        _made("transformers-mamba2", False, "mamba2", _TransformersStateSpace),
    ]


def _made(name: str, ours: bool, family: Family, build: Callable[[Setting, int], Attention]) -> Implementation:
    return Implementation(name=name, ours=ours, family=family, build=build, heads_first=False)


class _Recurrent(Attention):
    """Gates (B, H, T): `step` falls evenly in its logarithm, `log_decay` is minus the step, and `write` is the step or,
    of a delta rule, evenly from 0 to 1."""

    delta = False

    def __init__(self, setting: Setting, length: int) -> None:
        generator = torch.Generator().manual_seed(length)
        steps, writes = torch.rand(2, setting.batch, setting.heads, length, generator=generator)
        low, high = (torch.tensor(each).log() for each in STEPS)
        self.step = (low + (high - low) * steps).exp().to(setting.device).requires_grad_()
        self.write = writes.to(setting.device).requires_grad_()
        self.scale = setting.head_size**-0.5
        self.parameters = (self.step, self.write) if self.delta else (self.step,)

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        """Token by token. A token's FLOPs are those of softmax attention over as many keys as a state has rows, and
        half as many more where the state is read before it is written to."""
        k = normalize(k, dim=-1) if self.delta else k
        write = self.write if self.delta else self.step
        given = (self.scale * q, k, v, -self.step.unsqueeze(-1), write.unsqueeze(-1))
        out = by_block(*(x.double() for x in given), delta=self.delta)[:, :, positions]
        alone = torch.zeros((), dtype=torch.bool, device=q.device)
        return Expected(out=out, keys=q.shape[-1] * (1.5 if self.delta else 1.0), alone=alone)


def by_block(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, write: Tensor, *, delta: bool) -> Tensor:
    """The recurrence, all (B, H, T, ...): in each block what every token writes, by a general solver, and what is read.

    Token by token it would take minutes. Blocks are computed again in the backward pass.
    """
    state, out = v.new_zeros(*v.shape[:2], k.shape[-1], v.shape[-1]), []
    for start in range(0, q.shape[2], BLOCK):
        rows = (x[:, :, start : start + BLOCK] for x in (q, k, v, log_decay, write))
        read, state = checkpoint(_block, state, *rows, delta, use_reentrant=False)
        out.append(read)
    return torch.cat(out, 2)


def _block(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, write: Tensor, delta: bool
) -> tuple[Tensor, Tensor]:
    since = log_decay.cumsum(2)
    left = (since - since.mT).tril().exp().tril()
    new = write * v
    if delta:
        system = torch.eye(v.shape[2], dtype=v.dtype, device=v.device) + (write * left * (k @ k.mT)).tril(-1)
        new = torch.linalg.solve(system, write * (v - (since.exp() * k) @ state))
    read = (since.exp() * q) @ state + (left * (q @ k.mT)) @ new
    last = since[:, :, -1:]
    return read, last.exp() * state + ((last - since).exp() * k).mT @ new


class _Ours(_Recurrent):
    option: str

    def __init__(self, setting: Setting, length: int) -> None:
        super().__init__(setting, length)
        made = instantiate(OmegaConf.load(conf_folder() / "attention" / f"{self.option}.yaml"), chunk=setting.chunk)
        sizes: dict[str, Any] = {"d_model": setting.width, "n_heads": setting.heads, "d_ff": setting.width}
        spec = LayerSpec(**sizes, layer_index=0, n_layers=1, max_length=length, causal=True, seed=0)
        self.core: Any = made(spec).core

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        write = self.write if self.delta else self.step
        out: Tensor = self.core(self.scale * q, normalize(k, dim=-1) if self.delta else k, v, -self.step, write)
        return out


class _OurDelta(_Ours):
    option, delta = "gated_delta", True


class _OurStateSpace(_Ours):
    option = "mamba2"


class _TransformersDelta(_Recurrent):
    """The function of Qwen3-Next's layer."""

    delta = True

    def __init__(self, setting: Setting, length: int) -> None:
        super().__init__(setting, length)
        module = import_module("transformers.models.qwen3_next.modeling_qwen3_next")
        self.rule, self.chunk = module.torch_chunk_gated_delta_rule, setting.chunk

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        given = (x.transpose(1, 2) for x in (q, normalize(k, dim=-1), v, -self.step, self.write))
        out: Tensor = self.rule(*given, chunk_size=self.chunk)[0]
        return out.transpose(1, 2)


class _TransformersStateSpace(_Recurrent):
    """The function of Mamba-2's layer, with a rate of one for all heads."""

    def __init__(self, setting: Setting, length: int) -> None:
        super().__init__(setting, length)
        module = import_module("transformers.models.mamba2.modeling_mamba2")
        self.scan, self.chunk = module.mamba2_chunk_scan, setting.chunk
        self.rates = -torch.ones(setting.heads, device=setting.device)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        v, step, k, q = (x.transpose(1, 2) for x in (v, self.step, k, self.scale * q))
        out: Tensor = self.scan(v, step, self.rates, k, q, chunk_size=self.chunk)
        return out.transpose(1, 2)
