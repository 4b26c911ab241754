"""What the bench knows of an implementation: who made it, what it computes, and how to build it for one length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ablab.bench.attention.setting import Setting

Family = Literal["full", "windowed", "lsh", "dynamic"]
Pass = Literal["forward", "forward_backward"]
PASSES: tuple[Pass, ...] = ("forward", "forward_backward")


class Attention:
    """An implementation made ready for one length: called with q, k, v (B, H, T, D), it returns (B, H, T, D).

    Where queries and keys are shared, k is not used, and all that is done to the queries to make keys of them is part
    of the call.
    """

    parameters: tuple[Tensor, ...] = ()  # their gradients belong to its backward pass too

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        """What the last call, which had these q, k and v, must have returned for the queries at `positions` (S,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Expected:
    """Naive attention at a few queries."""

    out: Tensor  # (B, H, S, D), float64
    keys: float  # keys that have any weight, mean over these queries
    alone: Tensor  # bool, broadcastable to (B, H, S): queries that see one key only


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One line of the tables."""

    name: str
    ours: bool
    family: Family
    build: Callable[[Setting, int], Attention]  # for a length; may raise, which skips it there, with the reason
    causal: bool = True
    heads_first: bool = True  # the memory layout that it likes best, and is given
    no_backward: str = ""  # why it cannot be differentiated, where it cannot
    quadratic_memory: bool = False  # whether it holds all scores at once


@dataclass(frozen=True)
class Missing:
    """A peer that cannot be had here."""

    name: str
    reason: str
