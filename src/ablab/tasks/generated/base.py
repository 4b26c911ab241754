"""A task whose samples are drawn, not read: everything but the drawing."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from ablab.errors import UserError
from ablab.results.record import Corpus, Metric
from ablab.tasks.base import ENDLESS, IGNORED, Batch, Task
from ablab.tasks.generated.splits import Sample, Split, draw_split


class GeneratedTask(Task):
    """Predict the answers in sequences that are drawn at random; what is no answer is not scored.

    Training batch i and the evaluation samples are functions of (seed, split, index) alone. Train, validation and test
    have no sample in common (`splits`). The primary metric is the accuracy on the validation answers.

    Args:
        seq_len: tokens in a sequence, T.
        batch_size: sequences in a training batch, over all processes together.
        eval_batch_size: sequences in an evaluation batch of one process; changes speed and memory, no figure.
        eval_samples: sequences in the validation split, and as many in the test split.
        workers: processes that load data, beside each process that trains.
        seed: decides which samples are drawn.
        target: of the validation accuracy; None: no target.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        eval_batch_size: int = 64,
        eval_samples: int = 1000,
        workers: int = 0,
        target: float | None = None,
    ) -> None:
        super().__init__()
        sizes = {"seq_len": seq_len, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        for name, value in (sizes | {"eval_samples": eval_samples}).items():
            if value < 1:
                raise ValueError(f"task.{name} must be at least 1, got {value}")
        for name, value in {"workers": workers, "seed": seed}.items():
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        self.seq_len, self.batch_size, self.eval_batch_size = seq_len, batch_size, eval_batch_size
        self.eval_samples, self.workers, self.seed, self.target = eval_samples, workers, seed, target
        self.primary = Metric(name="val_accuracy", split="val", direction="max")
        self._evaluation: dict[Split, Sample] = {}

    @abstractmethod
    def draw(self, generator: np.random.Generator, count: int) -> Sample:
        """Inputs and targets, each (count, seq_len); a target of -100 is not scored."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the samples depend on besides the seed."""

    @property
    @abstractmethod
    def oracle(self) -> dict[str, float]:
        """Accuracies by name: `chance` (the best without looking at the sequence), `ceiling`, and others."""

    def setup(self, stage: str | None = None) -> None:
        """Draw the evaluation samples. Raises ValueError if there are too few different ones."""
        if self._evaluation:
            return
        described = json.dumps({"task": type(self).__name__, "seq_len": self.seq_len, **self.settings}, sort_keys=True)
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

    def samples(self, split: Split) -> Sample:
        """The samples of "val" or "test", all of them: inputs and targets, each (eval_samples, seq_len)."""
        self.setup()
        return self._evaluation[split]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Raises ValueError if the batch cannot be shared equally by the processes."""
        rank, processes = self._share()
        if self.batch_size % processes:
            raise ValueError(
                f"task.batch_size={self.batch_size} cannot be shared by {processes} processes: "
                f"give a multiple of {processes}"
            )
        return self._loader(_TrainBatches(self, rank, processes), range(self.first_step, ENDLESS), self.block)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._eval_loader("test")

    def totals(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Sums over the answers: `nats`, `correct`, `answers`; and over sequences: `exact` (all right), `sequences`."""
        kept = targets != IGNORED
        nats = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
        right = (logits.argmax(dim=-1) == targets) & kept
        asked = kept.any(dim=1)
        return {
            "nats": nats.sum(dtype=torch.float64),
            "correct": right.sum(dtype=torch.float64),
            "answers": kept.sum(dtype=torch.float64),
            "exact": ((right == kept).all(dim=1) & asked).sum(dtype=torch.float64),
            "sequences": asked.sum(dtype=torch.float64),
        }

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """`loss` in nats per answer, `accuracy` of the answers, `exact`: share of sequences with all answers right."""
        return {
            "loss": totals["nats"] / totals["answers"],
            "accuracy": totals["correct"] / totals["answers"],
            "exact": totals["exact"] / totals["sequences"],
        }

    def encode(self, text: str) -> NoReturn:
        """Raises UserError: its tokens stand for no text."""
        raise UserError("the sequences of this task are no text: there is nothing to write")

    def decode(self, ids: Tensor) -> NoReturn:
        """Raises UserError: its tokens stand for no text."""
        self.encode("")

    def _eval_loader(self, split: Split) -> DataLoader[Batch]:
        rank, processes = self._share()
        batches = _EvalBatches(self.samples(split), self.eval_batch_size, rank, processes)
        return self._loader(batches, range(len(batches)))


class _TrainBatches(Dataset[Batch]):
    """Item i is one process's share of training batch i."""

    def __init__(self, task: GeneratedTask, rank: int, processes: int) -> None:
        self._draw, self._seed, self._batch_size = task.draw, task.seed, task.batch_size
        share = task.batch_size // processes
        self._share = slice(rank * share, (rank + 1) * share)

    def __getitem__(self, index: int) -> Batch:
        inputs, targets = draw_split(self._draw, "train", self._seed, index, self._batch_size)
        return torch.from_numpy(inputs[self._share]), torch.from_numpy(targets[self._share])


class _EvalBatches(Dataset[Batch]):
    """The samples of one process. All serve equally many; one with fewer has a last one in which nothing is scored."""

    def __init__(self, samples: Sample, batch_size: int, rank: int, processes: int) -> None:
        inputs, targets = (part[rank::processes] for part in samples)
        missing = -(-len(samples[0]) // processes) - len(inputs)
        if missing:
            inputs = np.concatenate([inputs, samples[0][:1]])
            targets = np.concatenate([targets, np.full_like(samples[1][:1], IGNORED)])
        self._inputs, self._targets = torch.from_numpy(inputs), torch.from_numpy(targets)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._inputs) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        rows = slice(index * self._batch_size, (index + 1) * self._batch_size)
        return self._inputs[rows], self._targets[rows]
