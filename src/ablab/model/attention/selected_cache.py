"""What attention to selected keys keeps of the tokens that it has seen."""

from __future__ import annotations

from typing import TypedDict, Unpack

from torch import Tensor

from ablab.model.attention.block_cache import PooledKeys
from ablab.model.attention.cache import KeyValueCache, LayerCache, Step


class CacheSizes(TypedDict):
    """What a layer's cache follows from, beside how many samples and tokens it is for."""

    heads: int  # of keys and values
    size: int  # coordinates of each
    block: int  # tokens of a block
    index_size: int | None  # coordinates of an indexer's keys; None: the keys themselves are pooled
    like: Tensor  # of the type and on the device


class SelectedCache(LayerCache):
    """Keys and values of all tokens, and what their blocks are chosen by, unless that is the keys themselves."""

    def __init__(self, batch: int, capacity: int, **sizes: Unpack[CacheSizes]) -> None:
        like = sizes["like"]
        self.tokens = KeyValueCache(batch, sizes["heads"], capacity, sizes["size"], like=like)
        pooled = _pooled(sizes)
        self.pooled: PooledKeys | None = None
        if pooled is not None:
            heads, size = pooled
            self.pooled = PooledKeys(batch, heads, capacity, size, block=sizes["block"], like=like)

    @staticmethod
    def numbers(length: int, **sizes: Unpack[CacheSizes]) -> int:
        """How many it keeps of a sample of so many tokens."""
        tokens, pooled = 2 * length * sizes["heads"] * sizes["size"], _pooled(sizes)
        if pooled is None:
            return tokens
        return tokens + PooledKeys.numbers(length, *pooled, block=sizes["block"], like=sizes["like"])

    def extend(self, k: Tensor, v: Tensor, step: Step, index: Tensor | None) -> Tensor:
        """Take in new tokens, with an indexer's keys, if any; the mean keys of all blocks that are past."""
        keys, _, _ = self.tokens.extend(k, v, step)
        if self.pooled is None:
            return keys
        return self.pooled.extend(k if index is None else index, step)


def _pooled(sizes: CacheSizes) -> tuple[int, int] | None:
    """Heads and coordinates of the keys that are pooled; None where there is nothing to keep beside the keys."""
    if sizes["index_size"] is not None:
        return 1, sizes["index_size"]
    return None if sizes["block"] == 1 else (sizes["heads"], sizes["size"])
