"""A task whose samples are drawn, not read: everything but the drawing."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ablab.results.record import Corpus
from ablab.tasks.answers import AnswerTask
from ablab.tasks.base import Batch
from ablab.tasks.samples import Fetch, Rows
from ablab.tasks.synthetic.splits import Sample, Split, draw_split


class SyntheticTask(AnswerTask):
    """Predict the answers in sequences that are drawn at random; what is no answer is not scored.

    Training batch i and the evaluation samples are functions of (seed, split, index) alone. A subclass sees to it that
    train, validation and test have no sample in common. The primary metric is the accuracy on the validation answers.

    Args:
        eval_samples: sequences in the validation split, and as many in the test split.
        (the others): as `AnswerTask` says.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, *, eval_samples: int = 1000, **settings: Any) -> None:
        super().__init__(**settings)
        if eval_samples < 1:
            raise ValueError(f"task.eval_samples must be at least 1, got {eval_samples}")
        self.eval_samples = eval_samples
        self._evaluation: dict[Split, Sample] = {}

    @abstractmethod
    def sample(self, split: Split, index: int, count: int) -> Sample:
        """`count` samples of a split, inputs (count, seq_len) and targets: a function of (seed, split, index) alone."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the samples depend on besides the seed."""

    def setup(self, stage: str | None = None) -> None:
        """Draw the evaluation samples. Raises ValueError if there are too few different ones."""
        if self._evaluation:
            return
        self.corpus = self.source()
        self._evaluation = {"val": self.evaluation_samples("val"), "test": self.evaluation_samples("test")}

    def source(self) -> Corpus:
        """What the samples are made from: the settings alone."""
        described = json.dumps(self.described, sort_keys=True)
        return Corpus(
            name=f"generated: {described}",
            sha256=hashlib.sha256(described.encode()).hexdigest(),
            size_bytes=0,
            files=0,
        )

    def evaluation_samples(self, split: Split) -> Sample:
        """Make the samples of "val" or "test"."""
        return self.sample(split, 0, self.eval_samples)

    @property
    def described(self) -> dict[str, Any]:
        """The task and what its samples depend on besides the seed, as JSON takes it."""
        return {"task": type(self).__name__, "seq_len": self.seq_len, **self.settings}

    def samples(self, split: Split) -> Sample:
        """The samples of "val" or "test", all of them: inputs (eval_samples, seq_len) and targets."""
        self.setup()
        return self._evaluation[split]

    def train_batches(self, rank: int, processes: int) -> Dataset[Batch]:
        return _TrainBatches(self, rank, processes)

    def evaluation(self, split: str) -> list[tuple[Fetch, int]]:
        return [fetching(self.samples("val" if split == "val" else "test"))]


class HashSplitTask(SyntheticTask):
    """A drawn task in which a hash of a sample's own tokens says which split it belongs to (`splits`)."""

    @abstractmethod
    def draw(self, generator: np.random.Generator, count: int) -> Sample:
        """Inputs and targets, each (count, seq_len); a target of -100 is not scored."""

    def sample(self, split: Split, index: int, count: int) -> Sample:
        return draw_split(self.draw, split, self.seed, index, count)


def fetching(samples: Sample) -> tuple[Fetch, int]:
    """What gives those samples by their numbers, and how many there are."""
    return partial(_rows, samples), len(samples[0])


def _rows(samples: Sample, rows: Rows) -> Batch:
    inputs, targets = (array[rows].astype(np.int64, copy=False) for array in samples)
    return torch.from_numpy(inputs), torch.from_numpy(targets)


class _TrainBatches(Dataset[Batch]):
    """Item i is one process's share of training batch i."""

    def __init__(self, task: SyntheticTask, rank: int, processes: int) -> None:
        self._sample, self._batch_size = task.sample, task.batch_size
        share = task.batch_size // processes
        self._share = slice(rank * share, (rank + 1) * share)

    def __getitem__(self, index: int) -> Batch:
        inputs, targets = self._sample("train", index, self._batch_size)
        return torch.from_numpy(inputs[self._share]), torch.from_numpy(targets[self._share])
