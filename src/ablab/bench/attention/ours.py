"""Our own options, as their YAML has them, with the sizes of the bench."""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import normalize

from ablab.bench.attention import definitions
from ablab.bench.attention.implementation import Attention, Expected, Family, Implementation, Setting
from ablab.config import conf_folder
from ablab.errors import UserError
from ablab.model.attention.base import AttentionCore
from ablab.model.spec import LayerSpec


def implementations(setting: Setting) -> list[Implementation]:
    """The options that have public peers, and `dynamic`, which has none; by name alone, what switches of them cost."""
    switches: dict[str, Any] = {"sinks": {"sinks": True}, "softcap": {"softcap": 5.0}}
    hashed: dict[str, Any] = {"rounds": setting.hash_rounds, "bucket_size": setting.chunk}
    return [
        _ours("full", "full", _Full),
        _ours("windowed", "windowed", _Windowed, window=setting.window),
        _ours("windowed-both-sides", "windowed", _Windowed, causal=False, window=setting.window),
        # Queries and keys are shared, since the peers share them.
        _ours("lsh", "lsh", _LSH, share_qk=True, factored=False, **hashed),
        _ours("lsh-factored", "lsh", _LSH, share_qk=True, factored=True, **hashed),
        *(
            _ours(
                f"dynamic-{rounds}",
                "dynamic",
                _Dynamic,
                window=setting.window,
                rounds=rounds,
                bucket_size=setting.chunk,
                # As wide as spans get, which is the most work: not what a head has learned to do without.
                initial_span=setting.window - min(1, setting.window / 2),
            )
            for rounds in (1, 2)
        ),
        *(_ours(f"full-{name}", "full", _Full, extra=True, **each) for name, each in switches.items()),
        *(
            _ours(f"windowed-{name}", "windowed", _Windowed, extra=True, window=setting.window, **each)
            for name, each in switches.items()
        ),
    ]


def _ours(
    name: str, option: Family, made_of: type[_Core], *, causal: bool = True, extra: bool = False, **overrides: Any
) -> Implementation:
    def build(setting: Setting, length: int) -> Attention:
        return made_of(_core(option, setting, length, causal=causal, **overrides), setting)

    return Implementation(
        name=name, ours=True, family=option, build=build, causal=causal, heads_first=False, extra=extra
    )


def _core(option: str, setting: Setting, length: int, *, causal: bool, **overrides: Any) -> AttentionCore:
    path = conf_folder() / "attention" / f"{option}.yaml"
    if not path.is_file():
        raise UserError(f"there is no option attention={option}")
    spec = LayerSpec(
        d_model=setting.width,
        n_heads=setting.heads,
        d_ff=setting.width,
        layer_index=0,
        n_layers=1,
        max_length=length,
        causal=causal,
        seed=0,
    )
    core: AttentionCore = instantiate(OmegaConf.load(path), **overrides)(spec)
    return core.to(setting.device).eval()


class _Core(Attention):
    def __init__(self, core: AttentionCore, setting: Setting) -> None:
        self.core: Any = core
        self.setting = setting
        self.parameters = tuple(core.parameters())

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = self.core(q, k, v)
        return out

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        with torch.no_grad():
            weights = self.seen(q, k, positions)
        core = self.core
        return definitions.weighted(q, k, v, positions, weights, sinks=core.sinks, softcap=core.softcap)

    def seen(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        """The weights beside exp(score): broadcastable to (B, H, S, T)."""
        raise NotImplementedError

    def dense(self, length: int) -> bool:
        """Whether sequences so short are not hashed, all keys being seen."""
        return length < int(getattr(self.core, "dense_below", 0))


class _Full(_Core):
    def seen(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        return definitions.everything(positions, q.shape[2], causal=self.core.causal)


class _Windowed(_Core):
    def seen(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        return definitions.window(positions, q.shape[2], keys=self.setting.window, causal=self.core.causal)


class _LSH(_Core):
    """With shared queries and keys; normalising them is part of the call, as it is of the peers'."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().__call__(q, normalize(q, dim=-1), v)

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        return super().expected(q, normalize(q, dim=-1), v, positions)

    def seen(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        if self.dense(q.shape[2]):
            seen = definitions.everything(positions, q.shape[2], causal=True)
        else:
            buckets = self.core.hash(q)
            seen = definitions.bucket_mates(buckets, buckets, positions, nearest=self.setting.chunk)
        return definitions.self_only_if_alone(seen, positions)


class _Dynamic(_Core):
    def seen(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        core, window = self.core, self.setting.window
        distance = definitions.distances(positions, q.shape[2])
        spans = core.spans(q).double().expand(1, q.shape[1], q.shape[2])[..., positions, None]
        local = (distance >= 0) & (distance < window)
        soft = ((core.span.ramp + spans - distance) / core.span.ramp).clamp(0, 1)
        reach = (core.span.ramp + spans).ceil().clamp(max=window)
        if self.dense(q.shape[2]):
            hashed = (distance >= 0).double()
        else:
            hashed = definitions.bucket_mates(core.hash(q), core.hash(k), positions, nearest=self.setting.chunk)
        seen: Tensor = local * soft + hashed * (distance >= reach)
        return seen
