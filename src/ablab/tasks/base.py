"""What a task is: its data, the loss to train with, and the figures to judge by."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from ablab.results.record import Corpus, Metric

Batch = tuple[Tensor, Tensor]
IGNORED = -100  # target without a loss; what torch's cross entropy ignores by default
ENDLESS = 2**62  # batches; more than any run takes, and a length that fits a C integer


class Task(LightningDataModule, ABC):
    """Sequences to learn from, in batches of (inputs, targets), both int64 (B, T); a target of -100 is ignored.

    A task works with a Trainer and without one (to look at it, or to build a model for it); without one it is the
    only process. What it serves is a function of its settings and `seed` alone: training batch i is the same whatever
    the number of processes and workers, and so are the samples of an evaluation.

    Attributes:
        vocab_size: number of token ids; known after `setup` or `load_state_dict`.
        seq_len: T, tokens in a sequence.
        batch_size: sequences in one training batch, over all processes together.
        causal: whether a position may see only itself and what precedes it.
        primary: the figure by which runs are compared.
        corpus: what was learned from; known after `setup`.
        first_step: index of the first training batch that `train_dataloader` serves; a resumed run sets it.
        target: None, or a value of the primary metric; the steps until an evaluation reaches it are recorded.
        oracle: values of the primary metric that theory or the data give, by name: `chance`, `ceiling`, and others.
        workers: processes that load data, beside each process that trains.
        seed: decides what is served for training.
        block: None, or a number: `train_dataloader` then serves lists of so many consecutive batches.
    """

    vocab_size: int
    seq_len: int
    batch_size: int
    causal: bool = True
    primary: Metric
    corpus: Corpus
    first_step: int = 0
    block: int | None = None
    target: float | None = None
    workers: int = 0
    seed: int = 0

    @property
    def tokens_per_batch(self) -> int:
        """Tokens in one training batch, over all processes together."""
        return self.batch_size * self.seq_len

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Read the corpus. A second call does nothing."""

    @abstractmethod
    def train_dataloader(self) -> DataLoader[Batch]:
        """This process's share of the training batches, from `first_step` on, without end."""

    @abstractmethod
    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """This process's share of the validation samples; every sample is in exactly one share."""

    @abstractmethod
    def test_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """The same of the test samples; an empty list for a task without a test split."""

    @property
    def oracle(self) -> dict[str, float]:
        """Known after `setup`; empty where nothing is known."""
        return {}

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What training minimises, from logits (B, T, vocab_size) and targets (B, T); a scalar.

        Mean cross entropy in nats over the targets that are not ignored.
        """
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    @abstractmethod
    def totals(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Sums over a batch, as float64 scalars. They add up over batches and processes to what `metrics` takes."""

    @abstractmethod
    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """The figures of an evaluation by name, without the split ("loss", not "val_loss"), from its summed totals."""

    @abstractmethod
    def encode(self, text: str) -> Tensor:
        """The ids (T,) int64 of `text`. Raises ValueError for text outside the vocabulary."""

    @abstractmethod
    def decode(self, ids: Tensor) -> str:
        """The text of `ids` (T,)."""

    def _loader(self, batches: Dataset[Batch], order: range, block: int | None = None) -> DataLoader[Batch]:
        return DataLoader(
            batches,
            batch_size=block,  # batches to an item; None: the batch itself
            collate_fn=None if block is None else list,
            sampler=order,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            # A loader draws a seed for its workers; from a generator of its own, so that dropout does not notice.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _share(self) -> tuple[int, int]:
        """Rank and number of the processes among which data is shared out.

        Processes that hold parts of one model (tensor parallel) see the same data, so this is the strategy's own
        notion of rank, not the rank of the process.
        """
        shares = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return (0, 1) if shares is None else (shares["rank"], shares["num_replicas"])
