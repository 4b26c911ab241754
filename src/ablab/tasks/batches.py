"""Datasets whose items are whole batches: windows of a text, and samples of a set.

So a batch costs one draw and one gather, and there is nothing to collate. Training batch i is a function of (seed, i)
alone: it does not depend on what was drawn before it, so it is the same in any worker and after a resume. An
evaluation serves every sample once; all processes serve equally many batches of equal sizes, as strategies that
exchange parameters in every forward pass need, and where samples do not divide, some get one more in which every target
is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ablab.tasks.base import IGNORED, Batch, Inputs
from ablab.tasks.tokenizers import Ids

Rows = NDArray[np.int64]
Fetch = Callable[[Rows], Batch]  # numbers of samples -> those samples

# These keep streams apart that are drawn from the same seed.
WINDOW_KEY = 0
_EPOCH_KEY = 3


class EpochBatches(Dataset[Batch]):
    """Every sample once an epoch, in an order of its own. Item i is batch i, or the share of it of one process.

    The order of an epoch is a function of (seed, epoch), and batches go on where an epoch ends.

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
        """Return the numbers of the samples in the whole batch `index`."""
        epochs, within = np.divmod(self._places(index), self._count)
        rows = np.empty_like(epochs)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            rows[mine] = _order(self._seed, int(epoch), self._count)[within[mine]]
        return rows

    def epochs(self, index: int) -> Rows:
        """Return in which epoch each sample of the whole batch `index` is seen."""
        return self._places(index) // self._count

    def _places(self, index: int) -> Rows:
        return np.arange(index * self._batch_size, (index + 1) * self._batch_size)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Rows:
    return np.random.default_rng([seed, _EPOCH_KEY, epoch]).permutation(count)


class SubsetBatches(Dataset[tuple[Inputs, torch.Tensor, int]]):
    """The samples of every subset once, in batches of one subset each: inputs, targets and the number of the subset.

    A process without a sample left for one of its batches fills it with one whose targets are ignored.

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
    """Number at most `size` samples of one process, from its own `first` on; a single -1 where there is none left."""
    own = np.arange(first, min(first + size, -(-count // processes))) * processes + rank
    left = own[own < count]
    return left if len(left) else np.array([-1])


class WindowBatches(Dataset[tuple[Tensor, Tensor]]):
    """Random windows with replacement. Item i is batch i, or the share of it that falls to one process.

    The starts of batch i are drawn from a generator of its own, keyed by (seed, split, i).

    Args:
        tokens: ids (N,) of the split, N > seq_len.
        batch_size: windows in a whole batch; `processes` divides it.
        rank: which contiguous share of the batch, of `processes` equal ones.
    """

    def __init__(
        self, tokens: Ids, *, seq_len: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        self._windows = sliding_window_view(tokens, seq_len + 1)  # (N - seq_len, seq_len + 1), a view
        self._batch_size, self._seed = batch_size, seed
        share = batch_size // processes
        self._share = slice(rank * share, (rank + 1) * share)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, each int64 (batch_size / processes, seq_len), of batch `index`."""
        generator = np.random.default_rng([self._seed, WINDOW_KEY, index])
        starts = generator.integers(0, len(self._windows), size=self._batch_size)
        windows = self._windows[starts[self._share]]
        return torch.from_numpy(windows[:, :-1]).long(), torch.from_numpy(windows[:, 1:]).long()


class EvalWindowBatches(Dataset[tuple[Tensor, Tensor]]):
    """Consecutive windows that do not overlap and together predict every token of the split but the first, once.

    The last window is filled up with ignored targets. `limit` windows, spread evenly over the split, stand for all
    of them. Which windows are taken does not depend on the batch size or the number of processes.

    Args:
        tokens: ids (N,) of the split, N > 1.
        batch_size: windows in a batch of one process; the last batch may be smaller.
        limit: greatest number of windows over all processes; None for all.
    """

    def __init__(
        self,
        tokens: Ids,
        *,
        seq_len: int,
        batch_size: int,
        limit: int | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._tokens, self._seq_len, self._batch_size = tokens, seq_len, batch_size
        windows = -(-(len(tokens) - 1) // seq_len)
        count = windows if limit is None else min(windows, limit)
        starts = np.arange(count) * windows // count * seq_len
        self._mine = starts[rank::processes]
        self._served = -(-count // processes)  # by each process, a filler included where it has a batch of its own

    def __len__(self) -> int:
        return -(-self._served // self._batch_size)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, each int64 (B, seq_len) with B <= batch_size, of batch `index` of this process."""
        first = index * self._batch_size
        rows = max(1, min(self._batch_size, len(self._mine) - first))
        inputs = torch.zeros(rows, self._seq_len, dtype=torch.int64)
        targets = torch.full((rows, self._seq_len), IGNORED, dtype=torch.int64)
        for row, start in enumerate(self._mine[first : first + rows]):
            ids = torch.from_numpy(self._tokens[start : start + self._seq_len + 1].astype(np.int64))
            inputs[row, : len(ids) - 1] = ids[:-1]
            targets[row, : len(ids) - 1] = ids[1:]
        return inputs, targets
