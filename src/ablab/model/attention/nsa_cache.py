"""What native sparse attention keeps of the tokens that it has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from ablab.model.attention.blocks import Compression
from ablab.model.attention.cache import KeyValueCache, LayerCache, Slots, Step

if TYPE_CHECKING:
    from ablab.model.attention.nsa_core import NativeSparseCore


class NativeSparseCache(LayerCache):
    """Keys and values: of all tokens for the selection, of the window, one of each compressed block that is past, and
    those of the newest tokens that blocks which are still open are made of.
    """

    def __init__(
        self, batch: int, capacity: int, *, core: NativeSparseCore, heads: int, size: int, like: Tensor
    ) -> None:
        window = core.window.new_cache(batch, capacity, heads=heads, size=size, like=like)
        assert window is not None
        self.tokens, self.window = KeyValueCache(batch, heads, capacity, size, like=like), window
        self.keys = _CompressedCache(batch, heads, capacity, size, compression=core.compress_key, like=like)
        self.values = _CompressedCache(batch, heads, capacity, size, compression=core.compress_value, like=like)

    @staticmethod
    def numbers(length: int, *, core: NativeSparseCore, heads: int, size: int) -> int:
        """How many it keeps of a sample of so many tokens."""
        window, blocks = core.window.keeps(length)[0], core.compress_key
        return 2 * heads * size * (length + window + min(length, blocks.block) + blocks.past(length))

    def begin(self, k: Tensor, v: Tensor, compressed_k: Tensor, compressed_v: Tensor, step: Step) -> None:
        """Take in the first tokens, (B, heads, S, size), and what their blocks have been made into."""
        self.keys.begin(k, compressed_k, step)
        self.values.begin(v, compressed_v, step)

    def extend(self, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Take in new tokens, (B, heads, S, size); keys and values of all blocks that are past, at least of one."""
        return self.keys.extend(k, step), self.values.extend(v, step)


class _CompressedCache(LayerCache):
    """Of keys, or of values."""

    def __init__(
        self, batch: int, heads: int, capacity: int, size: int, *, compression: Compression, like: Tensor
    ) -> None:
        self.compression = compression
        self.newest = Slots(batch, heads, min(capacity, compression.block), size, like=like)
        self.past = Slots(batch, heads, compression.past(capacity), size, like=like)

    def begin(self, x: Tensor, compressed: Tensor, step: Step) -> None:
        filled = self._filled(step)
        if filled is not None:
            self.past.write(compressed[:, :, : filled.positions.shape[1]], filled)
        self.newest.write(x, step)

    def extend(self, x: Tensor, step: Step) -> Tensor:
        filled = self._filled(step)
        if filled is not None:
            self.past.write(self.compression.of_blocks(self._blocks(x, filled.positions, step)), filled)
        self.newest.write(x, step)
        past = self.past.tensor[:, :, : self.compression.past(step.total)]
        return past if past.shape[2] else pad(past, (0, 0, 0, 1))

    def _blocks(self, x: Tensor, numbers: Tensor, step: Step) -> Tensor:
        """The tokens of blocks (B, E), kept or new: (B, heads, E, block, size)."""
        block, starts = self.compression.block, step.starts[:, None, None]
        tokens = numbers.unsqueeze(-1) * self.compression.stride + torch.arange(block, device=x.device)
        known = torch.cat([self.newest.tensor, x.to(self.newest.tensor.dtype)], 2)
        slots = torch.where(tokens < starts, tokens % block, block + tokens - starts).clamp(max=known.shape[2] - 1)
        rows = torch.arange(len(x), device=x.device)[:, None, None]
        return known.transpose(1, 2)[rows, slots].movedim(-2, 1)

    def _filled(self, step: Step) -> Step | None:
        """The blocks that a pass fills, as tokens of sequences of blocks; None where there is none."""
        past, device = self.compression.past, step.positions.device
        if step.alike and step.before is not None:
            before, total = past(step.before), past(step.total)
            numbers = torch.arange(before, total, device=device).expand(len(step.positions), -1)
            return Step(positions=numbers, there=None, before=before, total=total) if total > before else None
        first, last = (
            ((length - self.compression.block) // self.compression.stride + 1).clamp(min=0)
            for length in (step.starts, step.lengths)
        )
        most = -(-step.positions.shape[1] // self.compression.stride)
        numbers = first[:, None] + torch.arange(most, device=device)
        there = numbers < last[:, None]
        if not bool(there.any()):
            return None
        return Step(positions=numbers, there=there, before=None, total=past(step.total))
