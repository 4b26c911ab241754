"""The sizes that all implementations of a run share, and what the bench knows of each: its maker, what it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ablab.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Sizes, dtype and device.

    Raises:
        UserError: a size is out of its range.
    """

    batch: int = 1
    heads: int = 4
    head_size: int = 64
    window: int = 128  # keys that a query sees (causal), its own included; on either side where not causal
    chunk: int = 64  # keys per chunk of a bucket, and the block in which chunked peers work
    hash_rounds: int = 2
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "head_size", "window", "chunk", "hash_rounds"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype {self.dtype}: there are {', '.join(DTYPES)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def width(self) -> int:
        """The width of all heads together."""
        return self.heads * self.head_size

    def draw(self, length: int, *, heads_first: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys, values and a gradient of the output: (B, H, T, D) each, normally distributed.

        In memory they lie as (B, H, T, D) with `heads_first`, else as (B, T, H, D), as a layer's projections leave
        them. The numbers are the same either way.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = (self.batch, length, self.heads, self.head_size)
        drawn = []
        for _ in range(4):
            x = torch.randn(shape, generator=generator).to(self.device, self.torch_dtype).transpose(1, 2)
            drawn.append(x.contiguous() if heads_first else x)
        q, k, v, grad = drawn
        return q, k, v, grad


Family = Literal["full", "windowed", "lsh", "dynamic", "dsa", "csa", "hca", "selected", "gated_delta", "mamba2"]
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
        """The right result of the last call, which had these q, k and v, for the queries at `positions` (S,)."""
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
    extra: bool = False  # measured where it is named, and not where all are


@dataclass(frozen=True)
class Missing:
    """A peer that cannot be had here."""

    name: str
    reason: str
