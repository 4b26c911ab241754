"""The interface of a task: its data, the loss to train with, and the metrics to judge by."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import StateDict
from torch.utils.data import DataLoader, Dataset

from ablab.results.record import Corpus, Metric

Inputs = Tensor | dict[str, Tensor]  # token ids (B, T), or what each modality gives
Batch = tuple[Inputs, Tensor]  # inputs and targets
EvalBatch = tuple[Inputs, Tensor] | tuple[Inputs, Tensor, int]  # the third: which of the task's `subsets` it belongs to
Totals = dict[str, float]
IGNORED = -100  # target without a loss; what torch's cross entropy ignores by default
ENDLESS = 2**62  # batches; more than any run takes, and a length that fits a C integer


@dataclass(frozen=True)
class Modality:
    """One of several inputs of a task: a sequence of token ids, or of feature vectors.

    In a batch of inputs it is `inputs[name]`, int64 (B, length) or float32 (B, length, features).
    """

    length: int  # tokens
    vocab_size: int | None = None  # of token ids; None for features
    features: int | None = None  # of each token; None for token ids


class TaskSettings(TypedDict):
    """Arguments of `Task`, which constructors of tasks that have others beside them hand on."""

    seq_len: int
    batch_size: int
    seed: int
    eval_batch_size: NotRequired[int]
    workers: NotRequired[int]
    target: NotRequired[float | None]


class Task(LightningDataModule, ABC):
    """Sequences to learn from, in batches of (inputs, targets), both int64 (B, T); a target of -100 is ignored.

    Where one answer is asked for a whole sequence (`pooled`), targets are (B, 1). A task of several `modalities` has
    inputs by name, and `inputs["padding"]`, bool (B, seq_len), is true where one after the other they have no token:
    behind the end of a short one, and all through one that is missing. No sample is without any.

    A task works with a Trainer and without one (to look at it, or to build a model for it); without one it is the
    only process. What it serves is a function of its settings and `seed` alone: training batch i is the same whatever
    the number of processes and workers, and so are the samples of an evaluation.

    Attributes:
        vocab_size: number of token ids; known after `setup` or `load_state_dict`.
        seq_len: T, tokens in a training sequence.
        padding: the token id that stands for no token; None if every position holds one.
        pooled: whether one answer is asked for the whole sequence, not one at each position.
        n_outputs: number of classes to choose an answer from; None: answers are token ids.
        modalities: by name, in the order of `padding`; empty for a task of token ids alone.
        same_samples: whether the subsets of an evaluation hold the same samples, each in another way.
        batch_size: sequences in one training batch, over all processes together.
        causal: whether a position may see only itself and what precedes it.
        primary: the metric by which runs are compared.
        corpus: what was learned from; known after `setup`.
        first_step: index of the first training batch that `train_dataloader` serves; a resumed run sets it.
        target: None, or a value of the primary metric; the steps until an evaluation reaches it are recorded.
        equal_shares: whether no target of a training batch is ignored, so that all shares of it weigh the same.
        oracle: values of the primary metric that theory or the data give, by name: `chance`, `ceiling`, and others.
        workers: processes that load data, beside each process that trains.
        seed: decides what is served for training.
    """

    vocab_size: int
    seq_len: int
    batch_size: int
    padding: int | None = None
    pooled: bool = False
    n_outputs: int | None = None
    modalities: Mapping[str, Modality] = {}
    same_samples: bool = False
    causal: bool = True
    primary: Metric
    corpus: Corpus
    first_step: int = 0
    target: float | None = None
    equal_shares: bool = False
    workers: int = 0
    seed: int = 0

    def __init__(
        self,
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        eval_batch_size: int = 64,
        workers: int = 0,
        target: float | None = None,
    ) -> None:
        super().__init__()
        sizes = {"seq_len": seq_len, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"task.{name} must be at least 1, got {value}")
        for name, value in {"workers": workers, "seed": seed}.items():
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        self.seq_len, self.batch_size, self.eval_batch_size = seq_len, batch_size, eval_batch_size
        self.workers, self.seed, self.target = workers, seed, target

    @property
    def tokens_per_batch(self) -> int:
        """Tokens in one training batch, over all processes together."""
        return self.batch_size * self.seq_len

    @property
    def max_length(self) -> int:
        """The longest sequence that is trained or evaluated on, in tokens."""
        return self.seq_len

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Read the corpus. A second call does nothing."""

    @abstractmethod
    def train_dataloader(self) -> DataLoader[Batch]:
        """Serve this process's share of the training batches, from `first_step` on, without end."""

    @abstractmethod
    def val_dataloader(self) -> DataLoader[EvalBatch] | list[DataLoader[EvalBatch]]:
        """Serve this process's share of the validation samples; every sample is in exactly one share.

        A process without a sample left to serve serves one whose targets are all ignored.
        """

    @abstractmethod
    def test_dataloader(self) -> DataLoader[EvalBatch] | list[DataLoader[EvalBatch]]:
        """Serve this process's share of the test samples; an empty list for a task without a test split."""

    def keep_vocabulary(self, state_dict: StateDict) -> None:
        """Read data by the vocabulary of a trained run, its `state_dict`. Called before `setup`, for other data.

        Here it is taken over, and `setup` refuses data that have another.
        """
        self.load_state_dict(state_dict)

    def subsets(self, split: str) -> list[str]:
        """Name the subsets into which the samples of a split ("val", "test") fall; "" for one without a name.

        A named subset has a metric of its own, and is named by what sets it apart: "length=64,depth=0.5".
        """
        return [""]

    @property
    def oracle(self) -> dict[str, float]:
        """Values of the primary metric that are known without a model; complete after `setup`."""
        return {}

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return what training minimises, from logits (B, T, vocab_size) and targets (B, T); a scalar.

        Mean cross entropy in nats over the targets that are not ignored; 0 where all are.
        """
        if self.equal_shares:
            return cross_entropy(logits.flatten(0, 1), targets.flatten())
        total = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / self.weight(targets).clamp(min=1)

    def weight(self, targets: Tensor) -> Tensor:
        """Count what `loss` is a mean over, the targets not ignored: the weight of a batch in a mean over several."""
        return (targets != IGNORED).sum()

    @abstractmethod
    def totals(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Sum over a batch, as float64 scalars. They add up over batches and processes to what `metrics` takes."""

    @abstractmethod
    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """Return metrics by name, without the split ("loss", not "val_loss"), from the summed totals of samples."""

    def evaluation_metrics(self, totals: Mapping[str, Totals]) -> dict[str, float]:
        """Return the metrics of an evaluation from the summed totals of each of its subsets.

        Those of all samples together, and for each subset that has a name the primary one, "accuracy/length=64".
        """
        counted = list(totals.values())[: 1 if self.same_samples else None]
        metrics = self.metrics({name: sum(each[name] for each in counted) for name in counted[0]})
        primary = self.primary.name.removeprefix(f"{self.primary.split}_")
        named = {subset: self.metrics(own)[primary] for subset, own in totals.items() if subset}
        return metrics | {f"{primary}/{subset}": value for subset, value in named.items()}

    def example(self) -> Batch:
        """Return one sample of zeros, in the shape of every training sample. It needs no data."""
        targets = torch.zeros(1, 1 if self.pooled else self.seq_len, dtype=torch.long)
        if not self.modalities:
            return torch.zeros(1, self.seq_len, dtype=torch.long), targets
        inputs = {
            name: torch.zeros(1, each.length, dtype=torch.long)
            if each.features is None
            else torch.zeros(1, each.length, each.features)
            for name, each in self.modalities.items()
        }
        return {**inputs, "padding": torch.zeros(1, self.seq_len, dtype=torch.bool)}, targets

    def pictures(self, model: Callable[[Any], Tensor]) -> dict[str, Tensor]:
        """Return pictures of what the trained model makes, grey, uint8 (height, width), by name.

        Args:
            model: inputs -> logits, in evaluation mode.
        """
        return {}

    @abstractmethod
    def encode(self, text: str) -> Tensor:
        """Return the ids (T,) int64 of `text`. Raises ValueError for text outside the vocabulary."""

    @abstractmethod
    def decode(self, ids: Tensor) -> str:
        """Return the text of `ids` (T,)."""

    def __getstate__(self) -> dict[str, object]:
        """Leave out the Trainer, which holds the model and cannot be sent to a worker that is not forked."""
        return self.__dict__ | {"trainer": None}

    def _check_shares(self, processes: int) -> None:
        if self.batch_size % processes:
            raise ValueError(
                f"task.batch_size={self.batch_size} cannot be shared by {processes} processes: "
                f"give a multiple of {processes}"
            )

    def _loader(self, batches: Dataset[Any], order: range) -> DataLoader[Any]:
        return DataLoader(
            batches,
            batch_size=None,  # an item is a batch
            sampler=order,
            num_workers=self.workers,
            # As torch's own default on Linux, also below a process that was made in another way: workers then share the
            # data with the process that trains, and need no copy.
            multiprocessing_context="fork" if self.workers and sys.platform == "linux" else None,
            persistent_workers=self.workers > 0,
            # A loader draws a seed for its workers; from a generator of its own, so that dropout does not notice.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _share(self) -> tuple[int, int]:
        """Return rank and number of the processes among which data is shared out.

        Processes that hold parts of one model (tensor parallel) see the same data, so this is the strategy's own
        notion of rank, not the rank of the process.
        """
        shares = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return (0, 1) if shares is None else (shares["rank"], shares["num_replicas"])
