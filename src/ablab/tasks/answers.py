"""Tasks with right answers: what does not depend on where their samples come from, and the scores of classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ablab.errors import UserError
from ablab.results.record import Metric
from ablab.tasks.base import ENDLESS, IGNORED, Batch, EvalBatch, Task, Totals
from ablab.tasks.batches import EpochBatches, Fetch, SubsetBatches

_NO_TEXT = "the sequences of this task are no text: there is nothing to write"


class AnswerTask(Task):
    """Predict the answers in sequences; what is no answer is not scored. The primary metric is their accuracy.

    Args:
        seq_len: tokens in a sequence, T.
        batch_size: sequences in a training batch, over all processes together.
        eval_batch_size: sequences in an evaluation batch of one process; changes speed and memory, no metric.
        workers: processes that load data, beside each process that trains.
        seed: decides the order, or the choice, of the training samples.
        target: of the validation accuracy; None: no target.

    Raises:
        ValueError: a number is out of range.
    """

    primary = Metric(name="val_accuracy", split="val", direction="max")

    @property
    @abstractmethod
    def oracle(self) -> dict[str, float]:
        """Accuracies by name: `chance` (the best without looking at the sequence), `ceiling`, and others."""

    @abstractmethod
    def train_batches(self, rank: int, processes: int) -> torch.utils.data.Dataset[Batch]:
        """Item i is one process's share of training batch i."""

    @abstractmethod
    def evaluation(self, split: str) -> list[tuple[Fetch, int]]:
        """Return what gives the samples of each of `subsets(split)`, and their number; empty without such a split."""

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
        metrics = {"loss": totals["nats"] / totals["answers"], "accuracy": totals["correct"] / totals["answers"]}
        return metrics if self.pooled else metrics | {"exact": totals["exact"] / totals["sequences"]}

    def encode(self, text: str) -> Tensor:
        """Raises UserError: its tokens stand for no text, if a subclass does not say otherwise."""
        raise UserError(_NO_TEXT)

    def decode(self, ids: Tensor) -> str:
        """Raises UserError: its tokens stand for no text, if a subclass does not say otherwise."""
        raise UserError(_NO_TEXT)

    def _eval_loader(self, split: str) -> DataLoader[EvalBatch] | list[DataLoader[EvalBatch]]:
        self.setup()
        subsets = self.evaluation(split)
        if not subsets:
            return []
        rank, processes = self._share()
        batches = SubsetBatches(subsets, batch_size=self.eval_batch_size, rank=rank, processes=processes)
        return self._loader(batches, range(len(batches)))


class SampledTask(AnswerTask):
    """An answer task over a fixed set of training samples, each seen once an epoch."""

    @abstractmethod
    def training(self) -> tuple[Fetch, int]:
        """What gives the training samples, and how many there are."""

    def train_batches(self, rank: int, processes: int) -> EpochBatches:
        fetch, count = self.training()
        return EpochBatches(fetch, count, batch_size=self.batch_size, seed=self.seed, rank=rank, processes=processes)


def class_counts(said: Tensor, answers: Tensor, classes: int, ignored: int) -> dict[str, Tensor]:
    """Count for each class 0..classes-1 how often it was said, should have been, and both, as float64 scalars.

    Args:
        said, answers: (N,) int64; where the answer is `ignored`, nothing counts.
    """
    kept = answers != ignored
    each = torch.arange(classes, device=answers.device)
    was_said, was_asked = said[kept, None] == each, answers[kept, None] == each
    counts = {"right": was_said & was_asked, "said": was_said, "asked": was_asked}
    return {
        f"{name}/{number}": count
        for name, which in counts.items()
        for number, count in enumerate(which.sum(0, dtype=torch.float64).unbind())
    }


def class_scores(totals: Totals, labels: Sequence[str]) -> dict[str, float]:
    """Return `precision`, `recall` and `f1`: of each class ("f1/class=spam"), and their means over classes (macro).

    A quotient without cases is 0: precision of what was never said, recall of what never should have been.
    """
    scores: dict[str, list[float]] = {"precision": [], "recall": [], "f1": []}
    for number in range(len(labels)):
        right, said, asked = (totals[f"{name}/{number}"] for name in ("right", "said", "asked"))
        scores["precision"].append(right / said if said else 0.0)
        scores["recall"].append(right / asked if asked else 0.0)
        scores["f1"].append(2 * right / (said + asked) if said + asked else 0.0)
    means = {name: sum(each) / len(each) for name, each in scores.items()}
    named = {
        f"{name}/class={label}": value
        for name, each in scores.items()
        for label, value in zip(labels, each, strict=True)
    }
    return means | named
