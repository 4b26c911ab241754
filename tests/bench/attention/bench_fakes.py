"""Implementations made up for tests: full attention that is right, wrong, slow or broken in a known way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ablab.bench.attention import definitions
from ablab.bench.attention.implementation import Attention, Expected, Family, Implementation, Pass
from ablab.bench.attention.results import Cell
from ablab.bench.attention.setting import Setting
from ablab.bench.attention.timing import Times

TINY = Setting(heads=2, head_size=8, window=32, chunk=16)


class Right(Attention):
    """Full causal attention."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=True)

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        return definitions.weighted(
            q, k, v, positions, definitions.everything(positions, q.shape[2], causal=True)
        )


class Altered(Right):
    """What becomes of the right result is up to the test."""

    def __init__(self, alter: Callable[[Tensor], Tensor]) -> None:
        self.alter = alter

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.alter(super().__call__(q, k, v))


class WrongGradient(torch.autograd.Function):
    """The identity, with a gradient that is a thousandth too large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * 1.001


def fake(name: str, attention: Attention | BaseException | None = None, **options: Any) -> Implementation:
    """An implementation; in place of an attention, what building it raises."""

    def build(setting: Setting, length: int) -> Attention:
        if isinstance(attention, BaseException):
            raise attention
        return Right() if attention is None else attention

    return Implementation(**({"name": name, "ours": False, "family": "full", "build": build} | options))


def timed(
    name: str, length: int, seconds: float, *, pass_: Pass = "forward", ours: bool = False, family: Family = "full",
    causal: bool = True, peak_bytes: int = 1024, flops: float = 1e6,
) -> Cell:  # fmt: skip
    """A cell of that median, from half to one and a half of it."""
    return Cell(
        implementation=name, ours=ours, family=family, causal=causal, pass_=pass_, length=length,
        times=Times(seconds, seconds / 2, seconds * 1.5), peak_bytes=peak_bytes, flops=flops,
    )  # fmt: skip
