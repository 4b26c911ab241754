"""Which blocks a call of FlexAttention visits: made once for each rule, length and device, by the rule's own algebra.

No mask of all pairs is ever written out, and nothing is made anew from step to step. What depends on data (padding,
what queries choose) is left to the mask function of the call, which reads it from tensors.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128  # queries, and keys, of a block: what FlexAttention's kernels are made for


class Blocks(NamedTuple):
    """Of blocks of queries and blocks of keys, bool (rows, columns)."""

    some: Tensor  # some query sees some key
    every: Tensor  # every query sees every key


class Extent(NamedTuple):
    """The first and the last position of blocks that lie side by side."""

    first: Tensor
    last: Tensor


class Rule(Protocol):
    """Which keys a query sees, by positions alone. Hashable, and equal where it means the same."""

    def __hash__(self) -> int: ...

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether queries at positions `query` see keys at positions `key`, bool, elementwise."""
        ...

    def blocks(self, queries: Extent, keys: Extent) -> Blocks:
        """The same of whole blocks, queries (rows, 1) and keys (columns,): never too few in `some`, nor too many in
        `every`."""
        ...


R = TypeVar("R", bound=Rule)


@dataclass(frozen=True, kw_only=True)
class Past:
    """Keys that each stand for `block` tokens, from every `stride`-th on: seen from the last of these on."""

    block: int
    stride: int

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        return key * self.stride + self.block - 1 <= query

    def blocks(self, queries: Extent, keys: Extent) -> Blocks:
        return Blocks(self(queries.last, keys.first), self(queries.first, keys.last))


@dataclass(frozen=True)
class Causal:
    """A query sees the keys up to its own place."""

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        return key <= query

    def blocks(self, queries: Extent, keys: Extent) -> Blocks:
        return Blocks(self(queries.last, keys.first), self(queries.first, keys.last))


@dataclass(frozen=True)
class Everything:
    """Every query sees every key."""

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        return (query >= 0) & (key >= 0)

    def blocks(self, queries: Extent, keys: Extent) -> Blocks:
        every = self(queries.first, keys.first)
        return Blocks(every, every)


CAUSAL, EVERYTHING = Causal(), Everything()
_SHARED: dict[Rule, Rule] = {}


def shared(rule: R) -> R:
    """The rule, or an equal one from before: `torch.compile` takes layers for alike that have one and the same."""
    return cast(R, _SHARED.setdefault(rule, rule))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def block_mask(rule: Rule, queries: int, keys: int, device: torch.device, *, alone: bool) -> BlockMask:
    """The blocks that `rule` needs, without a mask function. In a graph that is compiled it is a constant.

    Args:
        rule: made outside of any such graph.
        alone: the rule is all that says what is seen, so that blocks that are seen whole need not be looked into.
    """
    return _made(rule, queries, keys, device, alone)


@lru_cache(maxsize=64)
def _made(rule: Rule, queries: int, keys: int, device: torch.device, alone: bool) -> BlockMask:
    with torch.device("cpu"), kept():
        rows, columns = extent(queries), extent(keys)
        some, every = rule.blocks(Extent(*(x.unsqueeze(-1) for x in rows)), columns)
        return mask_of(some, every if alone else None, queries, keys, device)


def kept() -> AbstractContextManager[None]:
    """Within it tensors are made that are kept from pass to pass: autograd may save those of an evaluation later on."""
    return torch.inference_mode(False)


def extent(length: int, size: int = BLOCK) -> Extent:
    """Of the blocks that cover so many positions, the last of which may be shorter."""
    first = torch.arange(0, length, size)
    return Extent(first, (first + size).clamp(max=length) - 1)


def mask_of(some: Tensor, every: Tensor | None, queries: int, keys: int, device: torch.device) -> BlockMask:
    """The block mask of blocks (rows, columns) that are seen in part and, of these, as a whole."""
    partial = some if every is None else some & ~every
    counts, indices = _listed(partial, device)
    full, whole = (None, None) if every is None or not every.any() else _listed(every, device)
    return BlockMask.from_kv_blocks(counts, indices, full, whole, BLOCK_SIZE=BLOCK, seq_lengths=(queries, keys))


def coarser(seen: Tensor, size: int, queries: int, keys: int) -> Tensor:
    """Which blocks of `BLOCK` positions meet blocks of `size` that are seen, bool (n, m) -> (rows, columns).

    Whatever the two sizes are: blocks that share a position meet.
    """
    rows, columns = _meets(queries, size, len(seen)), _meets(keys, size, seen.shape[1])
    return (rows @ seen.float() @ columns.T) > 0


def _meets(length: int, size: int, count: int) -> Tensor:
    """1 where a block of `BLOCK` positions shares one with a block of `size`: (blocks, count)."""
    large, small = extent(length), torch.arange(count) * size
    return ((small <= large.last[:, None]) & (small + size > large.first[:, None])).float()


def _listed(seen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many columns each row has, and which: int32 (1, 1, rows) and (1, 1, rows, columns)."""
    order = seen.int().sort(dim=-1, descending=True, stable=True).indices
    return tuple(x.int()[None, None].to(device) for x in (seen.sum(-1), order))  # type: ignore[return-value]
