"""A split of token ids cut into batches of windows: random ones to train on, consecutive ones to evaluate on.

A dataset's item is a whole batch, so that a batch costs one draw and one gather, and there is nothing to collate.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.utils.data import Dataset

from ablab.tasks.base import IGNORED
from ablab.tasks.tokenizers import Ids

TRAIN_KEY = 0  # keeps this stream apart from any other that is drawn from the same seed


class TrainBatches(Dataset[tuple[Tensor, Tensor]]):
    """Random windows with replacement. Item i is batch i, or the share of it that falls to one process.

    The starts of batch i are drawn from a generator of its own, keyed by (seed, split, i): a batch does not depend on
    what was drawn before it, so it is the same in any worker and after a resume.

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
        """Inputs and targets, each int64 (batch_size / processes, seq_len), of batch `index`."""
        generator = np.random.default_rng([self._seed, TRAIN_KEY, index])
        starts = generator.integers(0, len(self._windows), size=self._batch_size)
        windows = self._windows[starts[self._share]]
        return torch.from_numpy(windows[:, :-1]).long(), torch.from_numpy(windows[:, 1:]).long()


class EvalBatches(Dataset[tuple[Tensor, Tensor]]):
    """Consecutive windows that do not overlap and together predict every token of the split but the first, once.

    The last window is filled up with ignored targets. `limit` windows, spread evenly over the split, stand for all
    of them. Which windows are taken does not depend on the batch size or the number of processes.

    Every process serves equally many batches of equal sizes, as strategies that exchange parameters in every forward
    pass need; where the windows do not divide, some get one more window in which every target is ignored.

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
        self._served = -(-count // processes)  # by each process, the filler included

    def __len__(self) -> int:
        return -(-self._served // self._batch_size)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, each int64 (B, seq_len) with B <= batch_size, of batch `index` of this process."""
        rows = min(self._batch_size, self._served - index * self._batch_size)
        inputs = torch.zeros(rows, self._seq_len, dtype=torch.int64)
        targets = torch.full((rows, self._seq_len), IGNORED, dtype=torch.int64)
        first = index * self._batch_size
        for row, start in enumerate(self._mine[first : first + rows]):
            ids = torch.from_numpy(self._tokens[start : start + self._seq_len + 1].astype(np.int64))
            inputs[row, : len(ids) - 1] = ids[:-1]
            targets[row, : len(ids) - 1] = ids[1:]
        return inputs, targets
