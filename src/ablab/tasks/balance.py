"""Sequences of unequal length, dealt to the processes so that little is computed for padding and none waits long.

Processes go on together, so a step takes as long as the one that computes most. Its time goes with the tokens that it
computes, which are its sequences times the longest of them: the shorter ones are filled up with padding.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ablab.tasks.answers import AnswerTask
from ablab.tasks.base import Batch
from ablab.tasks.batches import EpochBatches, Rows

Balance = Literal["none", "length", "tokens"]
WINDOW = 16  # batches that are sorted by length together

_WINDOW_KEY = 5  # keeps this stream apart from any other that is drawn from the same seed


def deal(lengths: Rows, processes: int) -> Rows:
    """To which process each sample goes, so that the most that any of them computes is the least possible.

    What one computes is the number of its samples times the longest. Samples that go together are then neighbours in
    the order of their lengths (to swap two across neighbours makes no group longer), and whether `processes` groups of
    at most so many tokens are enough is found by filling them from the longest sample on. The least such number is
    found by bisection. Groups may differ in samples, and in real tokens.

    Args:
        lengths: tokens of each sample, at least 1.

    Returns:
        Numbers of processes, (samples,). Where there are as many samples as processes or more, none has no sample.
    """
    order = np.argsort(-lengths, kind="stable")
    descending = lengths[order]
    least, enough = int(descending[0]), int(descending[0]) * len(lengths)
    while least < enough:
        middle = (least + enough) // 2
        if len(_fill(descending, middle)) <= processes:
            enough = middle
        else:
            least = middle + 1
    starts = _spread(_fill(descending, enough), len(lengths), processes)
    owners = np.empty(len(lengths), dtype=np.int64)
    owners[order] = np.searchsorted(starts, np.arange(len(lengths)), side="right") - 1
    return owners


def _fill(descending: Rows, limit: int) -> list[int]:
    """Where each group starts, if each takes as many samples as it may compute; `limit` holds the longest."""
    starts, start = [], 0
    while start < len(descending):
        starts.append(start)
        start += limit // int(descending[start])
    return starts


def _spread(starts: list[int], samples: int, processes: int) -> list[int]:
    """Groups halved, the largest first, until every process has one; to take samples away makes no group larger."""
    starts = list(starts)
    while len(starts) < min(processes, samples):
        sizes = np.diff([*starts, samples])
        largest = int(sizes.argmax())
        starts.insert(largest + 1, starts[largest] + int(sizes[largest]) // 2)
    return starts


class BalancedBatches(Dataset[Batch]):
    """Item i is one process's share of training batch i, cut to its longest sequence.

    Args:
        whole: item i is the whole batch i.
        padding: the token that stands for no token, behind the end of a sequence.
        by_length: batches hold samples of similar length. `WINDOW` batches together hold what they would hold without,
            sorted by length, cut into batches again, and these are served in an order that is drawn: a function of
            (seed, index) alone. To serve one batch then means to fetch all of its window, once for those that follow.
        rank: whose share, of `processes`.
    """

    def __init__(
        self,
        whole: Dataset[Batch],
        *,
        padding: int,
        by_length: bool,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._whole, self._padding, self._by_length, self._seed = whole, padding, by_length, seed
        self._rank, self._processes = rank, processes
        self._kept: tuple[int, list[Batch]] | None = None  # the last window and its batches

    def __getitem__(self, index: int) -> Batch:
        inputs, targets = self._window(index // WINDOW)[index % WINDOW] if self._by_length else self._whole[index]
        assert isinstance(inputs, torch.Tensor)
        lengths = _lengths(inputs.numpy(), self._padding)
        own = deal(lengths, self._processes) == self._rank
        longest, rows = int(lengths[own].max()), torch.from_numpy(own.nonzero()[0])
        return inputs[rows, :longest], targets[rows, :longest]

    def _window(self, number: int) -> list[Batch]:
        if self._kept is None or self._kept[0] != number:
            self._kept = number, self._sorted(range(number * WINDOW, (number + 1) * WINDOW), number)
        return self._kept[1]

    def _sorted(self, indices: range, number: int) -> list[Batch]:
        batches = [self._whole[index] for index in indices]
        inputs, targets = (torch.cat([batch[side] for batch in batches]) for side in (0, 1))  # type: ignore[misc]
        lengths = _lengths(inputs.numpy(), self._padding)
        epochs = np.zeros_like(lengths)
        if isinstance(self._whole, EpochBatches):
            epochs = np.concatenate([self._whole.epochs(index) for index in indices])
        # Every other epoch backwards: where one follows another, a batch of both has similar lengths, too; and what
        # comes again in the next epoch does not come twice in a batch.
        order = np.lexsort((np.where(epochs % 2, -lengths, lengths), epochs))
        sorted_batches = order.reshape(WINDOW, -1)
        served = np.random.default_rng([self._seed, _WINDOW_KEY, number]).permutation(sorted_batches)
        return [(inputs[rows], targets[rows]) for rows in torch.from_numpy(served)]


def checked_balance(balance: Balance) -> Balance:
    """Return `balance`. Raises ValueError if there is no such one."""
    if balance not in get_args(Balance):
        raise ValueError(f"task.balance={balance}: must be one of {', '.join(get_args(Balance))}")
    return balance


class UnequalLengths(AnswerTask):
    """A task whose sequences are followed by padding, up to `seq_len`; put before the class that makes them.

    Attributes:
        balance: how the samples of a batch are shared by the processes. `none`: as they come, equally many each, with
            all their padding. `tokens`: the same batch, dealt so that the most tokens that any process computes are as
            few as can be, each share cut to its longest sequence (`deal`). `length`: also batches of similar lengths
            (`BalancedBatches`); other batches than without. Evaluations are not changed by it. A model gives the same
            answers to cut sequences, but where attention follows the length: the hashes of `lsh` and `dynamic` (in full
            below `dense_below`), the compressed blocks of `nsa`.
    """

    padding: int
    balance: Balance = "none"

    def train_shares(self, rank: int, processes: int) -> Dataset[Batch]:
        if self.balance == "none":
            return super().train_shares(rank, processes)
        return BalancedBatches(
            self.train_batches(0, 1),
            padding=self.padding,
            by_length=self.balance == "length",
            seed=self.seed,
            rank=rank,
            processes=processes,
        )


def _lengths(tokens: NDArray[np.int64], padding: int) -> Rows:
    """Up to the last that is no padding, (samples,); at least 1."""
    there = tokens != padding
    lengths: Rows = tokens.shape[1] - there[:, ::-1].argmax(axis=1)
    return lengths
