"""What a layer keeps of the tokens that it has seen, so that a pass need not compute them again.

A pass brings S more tokens of each of B samples, which need not have equally many already. The tokens of a sample stand
at positions 0, 1, ... whatever the others have, as they would if it were alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

NOTHING = -1  # the position of a slot that nothing is in


@dataclass(frozen=True, kw_only=True)
class Step:
    """Which tokens a pass adds to those that caches have.

    Attributes:
        positions: (B, S) int64, of the new tokens, each in its sample.
        there: (B, S) bool, false where a sample has fewer new tokens than others; its own come first. None: all have S.
        before: tokens that each sample has already; None where they differ.
        total: the most that any sample has behind the pass.
    """

    positions: Tensor
    there: Tensor | None
    before: int | None
    total: int

    @property
    def first(self) -> bool:
        """No sample has anything yet: what its tokens see is what they bring."""
        return self.before == 0

    @property
    def alike(self) -> bool:
        """All samples have as many tokens, before the pass and behind it."""
        return self.before is not None and self.there is None

    @property
    def padding(self) -> Tensor | None:
        """(B, S) bool, true where there is no token, as the masks of whole sequences."""
        return None if self.there is None else ~self.there

    @property
    def starts(self) -> Tensor:
        """(B,) int64, tokens of each sample before the pass."""
        return self.positions[:, 0]

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, tokens of each sample behind it."""
        return self.starts + (self.positions.shape[1] if self.there is None else self.there.sum(1))


class LayerCache:
    """What one layer keeps: tensors with room for as many samples, their first dimension, and tokens as it is made for.

    Tokens can be taken back. Where each has a place of its own nothing has to be done for it; elsewhere all tensors are
    copied before (`mark`), and a sample that loses tokens has those of the copy again.
    """

    def tensors(self) -> Iterator[Tensor]:
        """All of them."""
        for each in _leaves(vars(self)):
            if isinstance(each, Tensor):
                yield each
            elif isinstance(each, LayerCache | Slots):
                yield from each.tensors()

    @property
    def nbytes(self) -> int:
        """Of memory that they take."""
        return sum(each.nbytes for each in self.tensors())

    def places(self, capacity: int) -> bool:
        """Whether each of `capacity` tokens has a place of its own, which no later pass looks at once it is gone."""
        parts = [each for each in _leaves(vars(self)) if isinstance(each, LayerCache | Slots)]
        placed = {id(tensor) for each in parts for tensor in each.tensors()}
        return all(each.places(capacity) for each in parts) and all(id(tensor) in placed for tensor in self.tensors())

    def mark(self) -> list[Tensor]:
        """Copies of all that is kept, for `restore`."""
        return [each.clone() for each in self.tensors()]

    def restore(self, mark: list[Tensor], samples: Tensor) -> None:
        """Let samples (N,) have again what they had when `mark` was made."""
        for each, kept in zip(self.tensors(), mark, strict=True):
            each[samples] = kept[samples]


def _leaves(value: object) -> Iterator[object]:
    """What is in dicts and lists, of any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


class Slots:
    """A tensor (B, heads, slots, size) with a vector for each token.

    The token at a position has the slot of that number. Where there are fewer slots than tokens, a later one takes the
    place of the oldest but those of the first `fixed` positions, which stay.

    Args:
        slots: how many; at least one more than are fixed, unless no sample ever has more tokens than slots.
        like: a tensor of the dtype and on the device.
    """

    def __init__(self, batch: int, heads: int, slots: int, size: int, *, like: Tensor, fixed: int = 0) -> None:
        self.fixed = min(fixed, slots)
        # Zeros: what is hidden is multiplied by a weight of zero, which makes no zero of whatever memory held.
        self.tensor = torch.zeros(batch, heads, slots, size, dtype=like.dtype, device=like.device)

    @property
    def count(self) -> int:
        """How many slots there are."""
        return self.tensor.shape[2]

    def tensors(self) -> Iterator[Tensor]:
        """The only one."""
        yield self.tensor

    def places(self, capacity: int) -> bool:
        """Whether no token of so many takes the place of another."""
        return self.count >= capacity

    def write(self, x: Tensor, step: Step) -> None:
        """Put in the vectors of new tokens, (B, heads, S, size)."""
        size = x.shape[2]
        if step.alike and step.before is not None and (step.total <= self.count or size == 1):
            start = self._slot(step.before) if size == 1 else step.before
            self.tensor[:, :, start : start + size] = x
            return
        kept = (step.positions < self.fixed) | (step.positions >= (step.lengths - self._turning)[:, None])
        if step.there is not None:
            kept = kept & step.there
        samples, tokens = kept.nonzero(as_tuple=True)
        places = self._slots(step.positions[samples, tokens])
        self.tensor[samples, :, places] = x[samples, :, tokens].to(self.tensor.dtype)

    def positions(self, lengths: Tensor) -> Tensor:
        """Which position is in each slot, of samples that have so many tokens: (...) -> (..., slots); or `NOTHING`."""
        slot = torch.arange(self.count, device=lengths.device)
        length = lengths.unsqueeze(-1)
        if self._turning < 1:
            return torch.where(slot < length, slot, NOTHING)
        last = length - 1 - self.fixed  # of those that take turns
        turn = last - (last - (slot - self.fixed)) % self._turning
        found = torch.where(slot < self.fixed, slot, turn + self.fixed)
        return torch.where((slot < length) & (found >= 0), found, NOTHING)

    def extend(self, x: Tensor, step: Step) -> Tensor:
        """Put in the vectors of new tokens, (B, heads, S, size).

        Returns:
            (B, heads, L, size), what there is for the new tokens to see, at the positions that `seen` gives.
        """
        size = x.shape[2]
        if step.total > self.count and size > 1:  # the first of them need what the last take the place of
            whole = torch.cat([self.tensor, x.to(self.tensor.dtype)], 2)
            self.write(x, step)
            return whole
        self.write(x, step)
        return self.tensor if step.total > self.count else self.tensor[:, :, : step.total]

    def seen(self, step: Step) -> Tensor:
        """The positions of what `extend` gives, (L,) or, where samples differ, (B, L); `NOTHING` or one behind the
        query's own is none."""
        if step.total <= self.count:
            return torch.arange(step.total, device=self.tensor.device)
        size = step.positions.shape[1]
        lengths = step.starts if size > 1 else step.lengths
        kept = self.positions(lengths[0] if step.alike else lengths)
        if size == 1:
            return kept
        return torch.cat([kept, step.positions[0] if step.alike else step.positions], -1)

    @property
    def _turning(self) -> int:
        return self.count - self.fixed

    def _slot(self, position: int) -> int:
        return position if position < self.count else self.fixed + (position - self.fixed) % self._turning

    def _slots(self, positions: Tensor) -> Tensor:
        if self._turning < 1:
            return positions
        turned = self.fixed + (positions - self.fixed) % self._turning
        return torch.where(positions < self.count, positions, turned)


class KeyValueCache(LayerCache):
    """Keys (B, heads, slots, size) and values of the tokens, of all or of the newest.

    Args:
        slots, fixed: as of `Slots`.
        value_size: None: that of the keys.
    """

    def __init__(
        self,
        batch: int,
        heads: int,
        slots: int,
        size: int,
        *,
        like: Tensor,
        value_size: int | None = None,
        fixed: int = 0,
    ) -> None:
        self.keys = Slots(batch, heads, slots, size, like=like, fixed=fixed)
        self.values = Slots(batch, heads, slots, size if value_size is None else value_size, like=like, fixed=fixed)

    def extend(self, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Take in those of new tokens, (B, heads, S, size) each.

        Returns:
            Keys and values that there are for the new tokens to see, each (B, heads, L, size), and the positions that
            they stand at, as `Slots.seen` gives them.
        """
        return self.keys.extend(k, step), self.values.extend(v, step), self.keys.seen(step)
