"""What layers keep of tokens as one vector for each block of them: of blocks that are past, and what is open."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from ablab.model.attention.cache import LayerCache, Slots, Step
from ablab.model.attention.kernel import working_dtype


@dataclass(frozen=True)
class BlockStep:
    """The blocks of `block` tokens, from the start of each sample on, that a pass brings tokens to.

    The first is the one that was open before: of sample b that of number `first[b]`.
    """

    step: Step
    block: int

    @cached_property
    def first(self) -> Tensor:
        """(B,) int64, the number of the first block."""
        return self.step.starts // self.block

    @cached_property
    def count(self) -> int:
        """How many there are at most, E."""
        inside = self.block - 1 if self.step.before is None else self.step.before % self.block
        return -(-(inside + self.step.positions.shape[1]) // self.block)

    @cached_property
    def open(self) -> Tensor:
        """(B,) int64, which of them is not past behind the pass; E where all are."""
        return self.step.lengths // self.block - self.first

    def cut(self, x: Tensor) -> Tensor:
        """New tokens (B, heads, S, size) at their places in the blocks, (B, heads, E, block, size), zeros elsewhere."""
        size, before = x.shape[2], self.step.before
        if self.step.alike and before is not None:
            inside = before % self.block
            laid = pad(x, (0, 0, inside, self.count * self.block - inside - size))
        else:
            places, there = self._tokens
            rows = torch.arange(len(x), device=x.device)[:, None]
            laid = x.transpose(1, 2)[rows, places.clamp(0, size - 1)].masked_fill(~there[..., None, None], 0)
            laid = laid.transpose(1, 2)
        cut: Tensor = laid.unflatten(2, (self.count, self.block))
        return cut

    @cached_property
    def there(self) -> Tensor:
        """(B or 1, E, block) bool, where there is a new token."""
        there: Tensor = self._tokens[1].unflatten(1, (self.count, self.block))
        return there

    @cached_property
    def _tokens(self) -> tuple[Tensor, Tensor]:
        """Which new token has each place, (B or 1, E * block), and whether there is one."""
        starts = self.step.starts[:1] if self.step.alike else self.step.starts
        size = self.step.positions.shape[1]
        new = torch.arange(self.count * self.block, device=starts.device) - (starts % self.block)[:, None]
        there = (new >= 0) & (new < size)
        if self.step.there is not None:
            there = there & self.step.there.gather(1, new.clamp(0, size - 1))
        return new, there

    @cached_property
    def past(self) -> Step | None:
        """The blocks that this pass fills, as tokens of sequences of blocks; None where there is none."""
        before, step = self.step.before, self.step
        total = step.total // self.block
        if step.alike and before is not None:
            filled = (before + step.positions.shape[1]) // self.block - before // self.block
            numbers = self.first[:, None] + torch.arange(filled, device=step.positions.device)
            return Step(positions=numbers, there=None, before=before // self.block, total=total) if filled else None
        numbers = torch.arange(self.count, device=step.positions.device)
        there = numbers < self.open[:, None]
        if not bool(there.any()):
            return None
        return Step(positions=self.first[:, None] + numbers, there=there, before=None, total=total)

    def left(self, x: Tensor, nothing: Tensor) -> Tensor:
        """What x (B, heads, E, size) has of the block that is open behind the pass: (B, heads, size).

        Args:
            nothing: (B, heads, size), what a block without any token has.
        """
        return at_block(torch.cat([x, nothing.unsqueeze(2)], 2), self.open)


def at_block(x: Tensor, numbers: Tensor) -> Tensor:
    """x (B, heads, E, size) at one block of each sample, (B,): (B, heads, size)."""
    return x[torch.arange(len(x), device=x.device), :, numbers]


class PooledKeys(LayerCache):
    """The mean of the keys of each block that is past, and the sum of those of the open one.

    Of blocks of one token these are the keys, and there is no sum.
    """

    def __init__(self, batch: int, heads: int, capacity: int, size: int, *, block: int, like: Tensor) -> None:
        self.block = block
        self.means = Slots(batch, heads, capacity // block, size, like=like)
        if block > 1:  # in working precision: many small numbers are added to it
            self.open = like.new_zeros((batch, heads, size), dtype=working_dtype(like))

    @staticmethod
    def numbers(length: int, heads: int, size: int, *, block: int, like: Tensor) -> int:
        """How many it keeps of a sample of so many tokens."""
        return heads * size * (length // block + (wide(like) if block > 1 else 0))

    def extend(self, keys: Tensor, step: Step) -> Tensor:
        """Take in those of new tokens, (B, heads, S, size); all that there are, (B, heads, N, size)."""
        if self.block == 1:
            self.means.write(keys, step)
        else:
            within = BlockStep(step, self.block)
            sums = within.cut(keys).to(self.open.dtype).sum(3)
            sums[:, :, 0] += self.open
            self.open = within.left(sums, torch.zeros_like(self.open))
            if within.past is not None:
                self.means.write(sums[:, :, : within.past.positions.shape[1]] / self.block, within.past)
        return self.means.tensor[:, :, : step.total // self.block]


def wide(like: Tensor) -> int:
    """How many numbers of a tensor's type have the room of one in working precision."""
    return working_dtype(like).itemsize // like.dtype.itemsize
