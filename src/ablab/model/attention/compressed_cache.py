"""What attention to compressed keys and values keeps of the tokens that it has seen."""

from __future__ import annotations

from ablab.model.attention.cache import LayerCache, Slots
from ablab.model.attention.compressor import Compressor
from ablab.model.attention.entry_cache import EntryCache


class CompressedCache(LayerCache):
    """Keys of the window's tokens, which are the values, too; entries; and what an indexer compares, if there is one.

    Args:
        window: tokens seen one by one.
        size: coordinates of a key.
        index: makes the indexer's keys.
    """

    def __init__(
        self, batch: int, capacity: int, *, window: int, size: int, compressor: Compressor, index: Compressor | None
    ) -> None:
        self.window = Slots(batch, 1, min(capacity, window), size, like=compressor.place)
        self.entries: EntryCache = compressor.new_cache(batch, capacity)
        self.index = None if index is None else index.new_cache(batch, capacity)
