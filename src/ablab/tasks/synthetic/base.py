"""A task whose samples are drawn, not read: everything but the drawing, and which split a sample belongs to."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NotRequired, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ablab.results.record import Corpus
from ablab.tasks.answers import AnswerTask
from ablab.tasks.base import Batch, TaskSettings
from ablab.tasks.batches import Fetch, Rows

Split = Literal["train", "val", "test"]
Sample = tuple[NDArray[np.int64], NDArray[np.int64]]  # inputs and targets, each (N, T)
Draw = Callable[[np.random.Generator, int], Sample]

Settings = dict[str, Any]  # what samples depend on besides the seed, by name, as JSON takes it
_KEYS = {"train": 0, "val": 1, "test": 2}
_SHARES: dict[str, tuple[float, float]] = {"val": (0.0, 0.1), "test": (0.1, 0.2), "train": (0.2, 1.0)}
_ATTEMPTS = 200  # draws, each of at least as many samples as are wanted
_log = logging.getLogger(__name__)


class SyntheticSettings(TaskSettings):
    """Arguments of `SyntheticTask`."""

    eval_samples: NotRequired[int]


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

    def __init__(self, *, eval_samples: int = 1000, **settings: Unpack[TaskSettings]) -> None:
        super().__init__(**settings)
        if eval_samples < 1:
            raise ValueError(f"task.eval_samples must be at least 1, got {eval_samples}")
        self.eval_samples = eval_samples
        self._evaluation: dict[Split, Sample] = {}

    @abstractmethod
    def sample(self, split: Split, index: int, count: int) -> Sample:
        """Draw `count` samples, inputs (count, seq_len) and targets: a function of (seed, split, index) alone."""

    @property
    @abstractmethod
    def settings(self) -> Settings:
        """What the samples depend on besides the seed."""

    def setup(self, stage: str | None = None) -> None:
        """Draw the evaluation samples; logs where most are repeated. Raises ValueError if there are next to none."""
        if self._evaluation:
            return
        self.corpus = self.source()
        self._evaluation = {"val": self.evaluation_samples("val"), "test": self.evaluation_samples("test")}
        for split, (inputs, _) in self._evaluation.items():
            different = len({row.tobytes() for row in inputs})
            if 2 * different < len(inputs):  # a metric of them says less than their number makes believe
                name = type(self).__name__
                _log.warning("%s: %d of %d %s samples are different ones", name, different, len(inputs), split)

    def source(self) -> Corpus:
        """Describe what the samples are made from: the settings alone."""
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
    def described(self) -> Settings:
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
    """A synthetic task in which a hash of a sample's own tokens says which split it belongs to: none is in two."""

    @abstractmethod
    def draw(self, generator: np.random.Generator, count: int) -> Sample:
        """Draw inputs and targets, each (count, seq_len); a target of -100 is not scored."""

    def sample(self, split: Split, index: int, count: int) -> Sample:
        return draw_split(self.draw, split, self.seed, index, count)


def fetching(samples: Sample) -> tuple[Fetch, int]:
    """Return what gives those samples by their numbers, and how many there are."""
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


def split_of(inputs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each row (N,) of inputs (N, T): below 0.1 val, below 0.2 test, else train."""
    factors = np.random.default_rng(inputs.shape[1]).integers(1, 2**63, size=inputs.shape[1], dtype=np.uint64) | 1
    mixed = ((inputs.astype(np.uint64) + 1) * factors).sum(axis=1, dtype=np.uint64)  # modulo 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 (Steele et al. 2014)
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    numbers: NDArray[np.float64] = (mixed ^ (mixed >> np.uint64(31))) / 2.0**64
    return numbers


def belongs(inputs: NDArray[np.int64], split: Split) -> NDArray[np.bool_]:
    """Tell which rows (N,) of inputs (N, T) are of that split."""
    low, high = _SHARES[split]
    place = split_of(inputs)
    return (low <= place) & (place < high)


def generator_of(split: Split, seed: int, index: int) -> np.random.Generator:
    """Return the generator of the samples of batch `index` of a split."""
    return np.random.default_rng([seed, _KEYS[split], index])


def draw_split(draw: Draw, split: Split, seed: int, index: int, count: int) -> Sample:
    """Draw `count` samples of a split: a function of seed, split and index.

    Raises:
        ValueError: the task has next to no different samples, and none of this split was found.
    """
    generator = generator_of(split, seed, index)
    low, high = _SHARES[split]
    size = int(count / (high - low) * 1.2) + 8
    kept: list[Sample] = []
    have = 0
    for _ in range(_ATTEMPTS):
        inputs, targets = draw(generator, size)
        mine = belongs(inputs, split)
        kept.append((inputs[mine], targets[mine]))
        have += int(mine.sum())
        if have >= count:
            return np.concatenate([i for i, _ in kept])[:count], np.concatenate([t for _, t in kept])[:count]
    raise ValueError(f"there are too few different samples for a {split} split: make them longer or more varied")
