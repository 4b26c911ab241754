"""What attention to compressed entries keeps: entries of windows that are past, and sums over those that are open.

An entry is a mean of its tokens' contents by a softmax. Tokens come one after the other, and of those that an entry has
so far two numbers say all for each of its features: the logarithm of their summed weights, and the mean by these.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.model.attention.block_cache import BlockStep, at_block, wide
from ablab.model.attention.cache import LayerCache, Slots
from ablab.model.attention.kernel import FLOOR, working_dtype


class EntryCache(LayerCache):
    """Entries (B, 1, slots, size), and sums (B, 2, width) of the tokens behind the last window that is past.

    With `overlap` a token has two contents, the first one for the entry of the next window; what the last window that
    is past brings to the next entry is kept as well.
    """

    def __init__(self, batch: int, capacity: int, *, size: int, block: int, overlap: bool, like: Tensor) -> None:
        self.entries = Slots(batch, 1, capacity // block, size, like=like)
        self.open = _nothing(batch, 2 * size if overlap else size, like)
        self.last = _nothing(batch, size, like) if overlap else None

    @staticmethod
    def numbers(length: int, *, size: int, block: int, overlap: bool, like: Tensor) -> int:
        """How many it keeps of a sample of so many tokens."""
        return size * (length // block + wide(like) * (6 if overlap else 2))

    def extend(self, sums: Tensor, within: BlockStep) -> Tensor:
        """Take in the sums of new tokens in each window, (B, 2, E, width); those of each entry, (B, 2, E, size)."""
        nothing = _nothing(len(sums), sums.shape[-1], self.open)
        sums = torch.cat([merged(self.open, sums[:, :, 0]).unsqueeze(2), sums[:, :, 1:]], 2)
        self.open = within.left(sums, nothing)
        if self.last is None:
            return sums
        ahead, own = sums.chunk(2, -1)
        before = torch.cat([self.last.unsqueeze(2), ahead], 2)  # what the window before each brings to its entry
        self.last = at_block(before, within.open)
        return merged(before[:, :, :-1], own)


def sums_of(content: Tensor, gate: Tensor, there: Tensor) -> Tensor:
    """Of windows of tokens (B, E, block, width), some of which there are (B or 1, E, block): (B, 2, E, width)."""
    gate = gate.masked_fill(~there.unsqueeze(-1), FLOOR)
    return torch.stack([gate.logsumexp(2), (gate.softmax(2) * content).sum(2)], 1)


def merged(a: Tensor, b: Tensor) -> Tensor:
    """Sums over the tokens of both, (B, 2, ...) each."""
    weight = torch.logaddexp(a[:, 0], b[:, 0])
    return torch.stack([weight, torch.lerp(a[:, 1], b[:, 1], (b[:, 0] - weight).exp())], 1)


def _nothing(batch: int, width: int, like: Tensor) -> Tensor:
    """Sums over no tokens."""
    sums = like.new_zeros((batch, 2, width), dtype=working_dtype(like))
    sums[:, 0] = FLOOR
    return sums
