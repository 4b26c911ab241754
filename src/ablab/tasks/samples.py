"""A set of samples in batches: in a new order every epoch to train on, each exactly once to evaluate on.

A dataset's item is a whole batch, so that a batch costs one gather, and there is nothing to collate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ablab.tasks.base import IGNORED, Batch, Inputs

Rows = NDArray[np.int64]
Fetch = Callable[[Rows], Batch]  # numbers of samples -> those samples

_EPOCH_KEY = 3  # keeps this stream apart from any other that is drawn from the same seed


class EpochBatches(Dataset[Batch]):
    """Every sample once an epoch, in an order of its own. Item i is batch i, or the share of it of one process.

    The order of an epoch is a function of (seed, epoch), and batches go on where an epoch ends: a batch does not depend
    on what was served before it, so it is the same in any worker and after a resume.

    Args:
        fetch: gives samples by their numbers.
        count: how many samples there are.
        batch_size: samples in a whole batch; `processes` divides it.
        rank: which contiguous share of the batch, of `processes` equal ones.
    """

    def __init__(
        self, fetch: Fetch, count: int, *, batch_size: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        self._fetch, self._count, self._batch_size, self._seed = fetch, count, batch_size, seed
        share = batch_size // processes
        self._share = slice(rank * share, (rank + 1) * share)

    def __getitem__(self, index: int) -> Batch:
        return self._fetch(self.rows(index)[self._share])

    def rows(self, index: int) -> Rows:
        """The numbers of the samples in the whole batch `index`."""
        epochs, within = np.divmod(self._places(index), self._count)
        rows = np.empty_like(epochs)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            rows[mine] = _order(self._seed, int(epoch), self._count)[within[mine]]
        return rows

    def epochs(self, index: int) -> Rows:
        """In which epoch each sample of the whole batch `index` is seen."""
        return self._places(index) // self._count

    def _places(self, index: int) -> Rows:
        return np.arange(index * self._batch_size, (index + 1) * self._batch_size)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Rows:
    return np.random.default_rng([seed, _EPOCH_KEY, epoch]).permutation(count)


class SubsetBatches(Dataset[tuple[Inputs, torch.Tensor, int]]):
    """The samples of every subset once, in batches of one subset each: inputs, targets and the number of the subset.

    All processes serve equally many batches of equal sizes, as strategies that exchange parameters in every forward
    pass need; where the samples do not divide, some get one more in which every target is ignored.

    Args:
        subsets: of each what gives its samples, and how many there are (at least one).
        batch_size: samples in a batch of one process; the last batch of a subset may be smaller.
    """

    def __init__(
        self, subsets: Sequence[tuple[Fetch, int]], *, batch_size: int, rank: int = 0, processes: int = 1
    ) -> None:
        self._batches = [
            (fetch, subset, _share(first, batch_size, count, rank, processes))
            for subset, (fetch, count) in enumerate(subsets)
            for first in range(0, -(-count // processes), batch_size)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[Inputs, torch.Tensor, int]:
        fetch, subset, rows = self._batches[index]
        inputs, targets = fetch(np.maximum(rows, 0))
        targets[torch.from_numpy(rows < 0)] = IGNORED
        return inputs, targets, subset


def _share(first: int, size: int, count: int, rank: int, processes: int) -> Rows:
    """The numbers of at most `size` samples of one process, from its own `first` on; -1 where there is none left."""
    own = np.arange(first, min(first + size, -(-count // processes))) * processes + rank
    return np.where(own < count, own, -1)
