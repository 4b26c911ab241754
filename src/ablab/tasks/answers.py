"""A task with right answers: the part that does not depend on where its samples come from."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ablab.errors import UserError
from ablab.results.record import Metric
from ablab.tasks.base import ENDLESS, IGNORED, Batch, EvalBatch, Task, Totals
from ablab.tasks.samples import EpochBatches, Fetch, PartBatches

_NO_TEXT = "the sequences of this task are no text: there is nothing to write"


class AnswerTask(Task):
    """Predict the answers in sequences; what is no answer is not scored. The primary metric is their accuracy.

    Args:
        seq_len: tokens in a sequence, T.
        batch_size: sequences in a training batch, over all processes together.
        eval_batch_size: sequences in an evaluation batch of one process; changes speed and memory, no figure.
        workers: processes that load data, beside each process that trains.
        seed: decides the order, or the choice, of the training samples.
        target: of the validation accuracy; None: no target.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.primary = Metric(name="val_accuracy", split="val", direction="max")

    @property
    @abstractmethod
    def oracle(self) -> dict[str, float]:
        """Accuracies by name: `chance` (the best without looking at the sequence), `ceiling`, and others."""

    @abstractmethod
    def train_batches(self, rank: int, processes: int) -> torch.utils.data.Dataset[Batch]:
        """Item i is one process's share of training batch i."""

    @abstractmethod
    def evaluation(self, split: str) -> list[tuple[Fetch, int]]:
        """What gives the samples of each of `parts(split)`, and how many there are; empty without such a split."""

    def train_shares(self, rank: int, processes: int) -> torch.utils.data.Dataset[Batch]:
        """Item i is what one process trains on of batch i: its share as it falls, if a subclass does not deal."""
        return self.train_batches(rank, processes)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Raises ValueError if the batch cannot be shared equally by the processes."""
        self.setup()
        rank, processes = self._share()
        self._check_shares(processes)
        return self._loader(self.train_shares(rank, processes), range(self.first_step, ENDLESS))

    def val_dataloader(self) -> DataLoader[EvalBatch] | list[DataLoader[EvalBatch]]:
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[EvalBatch] | list[DataLoader[EvalBatch]]:
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

    def metrics(self, totals: Totals) -> dict[str, float]:
        """`loss` in nats per answer, `accuracy` of the answers, `exact`: share of sequences with all answers right.

        Where a sequence has one answer, `exact` is the accuracy and is left out.
        """
        figures = {"loss": totals["nats"] / totals["answers"], "accuracy": totals["correct"] / totals["answers"]}
        return figures if self.pooled else figures | {"exact": totals["exact"] / totals["sequences"]}

    def encode(self, text: str) -> Tensor:
        """Raises UserError: its tokens stand for no text, if a subclass does not say otherwise."""
        raise UserError(_NO_TEXT)

    def decode(self, ids: Tensor) -> str:
        """Raises UserError: its tokens stand for no text, if a subclass does not say otherwise."""
        raise UserError(_NO_TEXT)

    def _eval_loader(self, split: str) -> DataLoader[EvalBatch] | list[DataLoader[EvalBatch]]:
        self.setup()
        parts = self.evaluation(split)
        if not parts:
            return []
        rank, processes = self._share()
        batches = PartBatches(parts, batch_size=self.eval_batch_size, rank=rank, processes=processes)
        return self._loader(batches, range(len(batches)))


class SampledTask(AnswerTask):
    """An answer task over a fixed set of training samples, each seen once an epoch."""

    @abstractmethod
    def training(self) -> tuple[Fetch, int]:
        """What gives the training samples, and how many there are."""

    def train_batches(self, rank: int, processes: int) -> EpochBatches:
        fetch, count = self.training()
        return EpochBatches(fetch, count, batch_size=self.batch_size, seed=self.seed, rank=rank, processes=processes)
