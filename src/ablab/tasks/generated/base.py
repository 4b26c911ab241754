"""A task whose samples are drawn, not read: everything but the drawing."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ablab.results.record import Corpus
from ablab.tasks.answers import AnswerTask
from ablab.tasks.base import Batch
from ablab.tasks.generated.splits import Sample, Split, draw_split
from ablab.tasks.samples import Fetch, Rows


class GeneratedTask(AnswerTask):
    """Predict the answers in sequences that are drawn at random; what is no answer is not scored.

    Training batch i and the evaluation samples are functions of (seed, split, index) alone. Train, validation and test
    have no sample in common (`splits`). The primary metric is the accuracy on the validation answers.

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
    def draw(self, generator: np.random.Generator, count: int) -> Sample:
        """Inputs and targets, each (count, seq_len); a target of -100 is not scored."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the samples depend on besides the seed."""

    def setup(self, stage: str | None = None) -> None:
        """Draw the evaluation samples. Raises ValueError if there are too few different ones."""
        if self._evaluation:
            return
        described = json.dumps(self.described, sort_keys=True)
        self.corpus = Corpus(
            name=f"generated: {described}",
            sha256=hashlib.sha256(described.encode()).hexdigest(),
            size_bytes=0,
            files=0,
        )
        self._evaluation = {
            "val": draw_split(self.draw, "val", self.seed, 0, self.eval_samples),
            "test": draw_split(self.draw, "test", self.seed, 0, self.eval_samples),
        }

    @property
    def described(self) -> dict[str, Any]:
        """The task and what its samples depend on besides the seed, as JSON takes it."""
        return {"task": type(self).__name__, "seq_len": self.seq_len, **self.settings}

    def samples(self, split: Split) -> Sample:
        """The samples of "val" or "test", all of them: inputs and targets, each (eval_samples, seq_len)."""
        self.setup()
        return self._evaluation[split]

    def train_batches(self, rank: int, processes: int) -> Dataset[Batch]:
        return _TrainBatches(self, rank, processes)

    def evaluation(self, split: str) -> list[tuple[Fetch, int]]:
        return [fetching(self.samples("val" if split == "val" else "test"))]


def fetching(samples: Sample) -> tuple[Fetch, int]:
    """What gives those samples by their numbers, and how many there are."""
    inputs, targets = samples

    def fetch(rows: Rows) -> Batch:
        return torch.from_numpy(inputs[rows]), torch.from_numpy(targets[rows])

    return fetch, len(inputs)


class _TrainBatches(Dataset[Batch]):
    """Item i is one process's share of training batch i."""

    def __init__(self, task: GeneratedTask, rank: int, processes: int) -> None:
        self._draw, self._seed, self._batch_size = task.draw, task.seed, task.batch_size
        share = task.batch_size // processes
        self._share = slice(rank * share, (rank + 1) * share)

    def __getitem__(self, index: int) -> Batch:
        inputs, targets = draw_split(self._draw, "train", self._seed, index, self._batch_size)
        return torch.from_numpy(inputs[self._share]), torch.from_numpy(targets[self._share])
