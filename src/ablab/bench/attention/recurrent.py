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
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from ablab.bench.attention.implementation import Attention, Expected, Family, Implementation, Setting
from ablab.config import conf_folder
from ablab.model.spec import LayerSpec

SEGMENT = 256  # tokens whose states the definition keeps at one time
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
        rows = (x.double().transpose(0, 2) for x in (self.scale * q, k, v, (-self.step).exp(), write))
        out = by_token(*rows, delta=self.delta).transpose(0, 2)[:, :, positions]
        alone = torch.zeros((), dtype=torch.bool, device=q.device)
        return Expected(out=out, keys=q.shape[-1] * (1.5 if self.delta else 1.0), alone=alone)


def by_token(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, write: Tensor, *, delta: bool) -> Tensor:
    """The recurrence as it is written down, all (T, H, B, ...); segments are computed again in the backward pass."""
    state, out = v.new_zeros(*v.shape[1:3], k.shape[-1], v.shape[-1]), []
    for start in range(0, len(q), SEGMENT):
        rows = (x[start : start + SEGMENT] for x in (q, k, v, decay, write))
        read, state = checkpoint(_segment, state, *rows, delta, use_reentrant=False)
        out.append(read)
    return torch.cat(out)


def _segment(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, write: Tensor, delta: bool
) -> tuple[Tensor, Tensor]:
    read = []
    for q_t, k_t, v_t, decay_t, write_t in zip(q, k, v, decay, write, strict=True):
        state = decay_t[..., None, None] * state
        new = v_t - (k_t.unsqueeze(-2) @ state).squeeze(-2) if delta else v_t
        state = state + k_t.unsqueeze(-1) * (write_t.unsqueeze(-1) * new).unsqueeze(-2)
        read.append((q_t.unsqueeze(-2) @ state).squeeze(-2))
    return torch.stack(read), state


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


class _Given(nn.Module):
    """In place of a module: returns what it was given first."""

    def forward(self, x: Tensor, *others: object) -> Tensor:
        return x


class _TransformersStateSpace(_Recurrent):
    """Mamba-2's layer, whose projections, convolution and norm hand on what they are given."""

    def __init__(self, setting: Setting, length: int) -> None:
        super().__init__(setting, length)
        config = import_module("transformers").Mamba2Config(
            hidden_size=setting.width,
            num_heads=setting.heads,
            head_dim=setting.head_size,
            state_size=setting.head_size,
            n_groups=setting.heads,
            expand=1,
            chunk_size=setting.chunk,
            num_hidden_layers=1,
        )
        module = import_module("transformers.models.mamba2.modeling_mamba2")
        self.layer: Any = module.Mamba2Mixer(config, layer_idx=0).to(setting.device).requires_grad_(False)
        for name in ("in_proj", "conv1d", "act", "norm", "out_proj"):
            setattr(self.layer, name, _Given())
        for name in ("A_log", "D", "dt_bias"):  # a rate of one, no skip, and steps as they are given
            getattr(self.layer, name).zero_()
        self.gate = torch.zeros(setting.batch, length, setting.width, device=setting.device, dtype=setting.torch_dtype)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        step = torch.log(torch.expm1(self.step)).transpose(1, 2)  # before softplus
        streams = (x.transpose(1, 2).flatten(2) for x in (v, k, self.scale * q))
        out: Tensor = self.layer.torch_forward(torch.cat([self.gate, *streams, step], -1))
        return out.unflatten(-1, (q.shape[1], -1)).transpose(1, 2)
