"""How weights of one model become those of another that is the same function, and back.

A `Link` says so of a few tensors by their names; a map from a model to another is a list of links. Every conversion is
of slices, transposes and sums alone, so that gradients go through it, and each of the two ways undoes the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

Weights = dict[str, Tensor]


class Conversion(Protocol):
    """Tensors of theirs <-> tensors of ours, each way the other's inverse."""

    def to_ours(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]: ...

    def to_theirs(self, ours: Sequence[Tensor]) -> Sequence[Tensor]: ...


@dataclass(frozen=True)
class Each:
    """Every tensor by itself, by a function and its inverse."""

    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]

    def to_ours(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        return [self.ours(each) for each in theirs]

    def to_theirs(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return [self.theirs(each) for each in ours]


def _turned(x: Tensor) -> Tensor:
    return x.mT if x.ndim > 1 else x


SAME = Each(lambda x: x, lambda x: x)
TRANSPOSED = Each(_turned, _turned)  # matrices; vectors as they are
FROM_ONE = Each(lambda x: 1 + x, lambda x: x - 1)  # theirs is the distance of ours from 1
SQUEEZED = Each(lambda x: x.squeeze(1), lambda x: x.unsqueeze(1))


def grouped(groups: int) -> Each:
    """Theirs (groups * n, ...) in groups: ours (groups, n, ...)."""
    return Each(lambda x: x.unflatten(0, (groups, -1)), lambda x: x.flatten(0, 1))


@dataclass(frozen=True)
class Parts:
    """One tensor of theirs holds several of ours side by side, of sizes in proportion to `shares`.

    With several `groups` it is cut into as many first, each of which holds a piece of every one.
    """

    shares: tuple[int, ...]
    groups: int = 1
    dim: int = 0

    def to_ours(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        apart = theirs[0].unflatten(self.dim, (self.groups, -1))
        unit = apart.shape[self.dim + 1] // sum(self.shares)
        pieces = apart.split([share * unit for share in self.shares], self.dim + 1)
        return [piece.flatten(self.dim, self.dim + 1) for piece in pieces]

    def to_theirs(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        pieces = [each.unflatten(self.dim, (self.groups, -1)) for each in ours]
        return [torch.cat(pieces, self.dim + 1).flatten(self.dim, self.dim + 1)]


@dataclass(frozen=True)
class Reversed:
    """A conversion the other way round: what it does to theirs is done to ours."""

    conversion: Conversion

    def to_ours(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        return self.conversion.to_theirs(theirs)

    def to_theirs(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return self.conversion.to_ours(ours)


JOINED = Reversed(Parts((1, 1)))  # two of theirs, one behind the other, are one of ours


@dataclass(frozen=True)
class Halves:
    """Pairs of neighbours along `dim` become pairs half as far apart as they are many: 0 1 2 3 to 0 2 1 3.

    Args:
        size: coordinates of a head, in each of which it is so; None: all that there are along `dim`.
        count: how many of them, from `start` on; None: up to the end.
    """

    dim: int
    size: int | None = None
    start: int = 0
    count: int | None = None

    def to_ours(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        return [each.index_select(self.dim, self._order(each.shape[self.dim])) for each in theirs]

    def to_theirs(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return [each.index_select(self.dim, self._order(each.shape[self.dim]).argsort()) for each in ours]

    def _order(self, length: int) -> Tensor:
        size = length if self.size is None else self.size
        count = size - self.start if self.count is None else self.count
        order = torch.arange(size)
        order[self.start : self.start + count] = self.start + torch.arange(count).view(-1, 2).T.flatten()
        return torch.arange(length).view(-1, size)[:, order].flatten()


class Then:
    """One conversion after the other, from theirs to ours."""

    def __init__(self, *conversions: Conversion) -> None:
        self.conversions = conversions

    def to_ours(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        for each in self.conversions:
            theirs = each.to_ours(theirs)
        return theirs

    def to_theirs(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        for each in reversed(self.conversions):
            ours = each.to_theirs(ours)
        return ours


@dataclass(frozen=True)
class Link:
    """Some tensors of ours that are some of theirs, by their names."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    conversion: Conversion = field(default=SAME)


def link(ours: str | Iterable[str], theirs: str | Iterable[str], conversion: Conversion = SAME) -> Link:
    """A link of one name or several on either side."""
    own, its = ((names,) if isinstance(names, str) else tuple(names) for names in (ours, theirs))
    return Link(own, its, conversion)


def to_ours(links: Iterable[Link], theirs: Mapping[str, Tensor]) -> Weights:
    """Our tensors by name, made of theirs. Raises KeyError where one of theirs is missing."""
    ours: Weights = {}
    for each in links:
        made = each.conversion.to_ours([theirs[name] for name in each.theirs])
        ours |= dict(zip(each.ours, made, strict=True))
    return ours


def to_theirs(links: Iterable[Link], ours: Mapping[str, Tensor]) -> Weights:
    """Their tensors by name, made of ours. Raises KeyError where one of ours is missing."""
    theirs: Weights = {}
    for each in links:
        made = each.conversion.to_theirs([ours[name] for name in each.ours])
        theirs |= dict(zip(each.theirs, made, strict=True))
    return theirs
