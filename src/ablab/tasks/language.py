"""Next-token prediction: the part of a task that does not depend on where its tokens come from."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NotRequired, Unpack

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import StateDict
from torch.utils.data import DataLoader

from ablab.errors import UserError
from ablab.results.record import Corpus, Metric
from ablab.tasks.base import ENDLESS, IGNORED, Batch, EvalBatch, Task, TaskSettings
from ablab.tasks.batches import EvalWindowBatches, WindowBatches
from ablab.tasks.tokenizers import ByteTokenizer, Ids, Tokenizer, tokenizer_from_state
from ablab.tasks.tokenizers.choice import TokenizerChoice

_LARGEST_EXPONENT = 700  # exp of 709.8 and more is too large for a float


class LanguageSettings(TaskSettings):
    """Arguments of `LanguageTask`."""

    eval_tokens: NotRequired[int | None]


class LanguageTask(Task):
    """Predict each next token of a text, from the tokens before it in its window.

    Training takes random windows with replacement, evaluation consecutive ones (`batches` says how). A subclass says
    where the text comes from, `_load`, and reads it by its `tokenizer`.

    Args:
        seq_len: tokens in a window.
        batch_size: windows in a training batch, over all processes together.
        eval_batch_size: windows in an evaluation batch of one process; changes speed and memory, no metric.
        eval_tokens: tokens of a split to evaluate on, spread evenly over it; None for all.
        workers: processes that load data, beside each process that trains.
        seed: decides the order of the training windows.
        target: of the validation loss, in nats; None: no target.

    Raises:
        ValueError: a number is out of range.
    """

    equal_shares = True
    primary = Metric(name="val_loss", split="val", direction="min")

    def __init__(self, *, eval_tokens: int | None = None, **settings: Unpack[TaskSettings]) -> None:
        super().__init__(**settings)
        if eval_tokens is not None and eval_tokens < self.seq_len:
            raise ValueError(
                f"task.eval_tokens={eval_tokens} is less than one window: give task.seq_len={self.seq_len} or more, "
                "or null"
            )
        self.eval_tokens = eval_tokens
        self.tokenizer = TokenizerChoice.of(ByteTokenizer())
        self._tokenizer: Tokenizer | None = None
        self._token_bytes = torch.empty(0, dtype=torch.float64)
        self._splits: dict[str, Ids] = {}

    @abstractmethod
    def _load(self) -> tuple[Tokenizer, dict[str, Ids], Corpus]:
        """The tokenizer, the ids (N,) of each split ("test" may be missing), and what they were read from."""

    def setup(self, stage: str | None = None) -> None:
        """Read the corpus. A second call does nothing.

        Raises:
            UserError: the corpus cannot be used, a split is shorter than a window, or there is nothing to learn.
        """
        if self._splits:
            return
        tokenizer, splits, self.corpus = self._load()
        self._adopt(tokenizer)
        for name, tokens in splits.items():
            if len(tokens) <= self.seq_len:
                raise UserError(
                    f"{self.corpus.name}: {len(tokens)} tokens in the {name} split, a window needs {self.seq_len + 1}: "
                    f"shorten task.seq_len, give more text, or change task.val_fraction and task.test_fraction"
                )
        if (train := splits["train"])[0] == train[-1] and (train == train[0]).all():
            raise UserError(
                f"{self.corpus.name}: its training split is {tokenizer.decode([int(train[0])])!r} over and over: "
                "there is nothing to learn; give another text"
            )
        self._splits = splits

    def train_dataloader(self) -> DataLoader[Batch]:
        """Each iteration starts at `first_step` again; train in one epoch, and resume by setting it.

        Raises:
            ValueError: the batch cannot be shared equally by the processes.
        """
        rank, processes = self._share()
        self._check_shares(processes)
        batches = WindowBatches(
            self._split("train"),
            seq_len=self.seq_len,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=rank,
            processes=processes,
        )
        return self._loader(batches, range(self.first_step, ENDLESS))

    def val_dataloader(self) -> DataLoader[EvalBatch]:
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[EvalBatch] | list[DataLoader[EvalBatch]]:
        self.setup()
        return self._eval_loader("test") if "test" in self._splits else []

    def totals(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Sums over the targets that are not ignored: `nats` of cross entropy, `correct` guesses, `tokens`, `bytes`."""
        kept = targets != IGNORED
        nats = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
        if self._token_bytes.device != targets.device:
            self._token_bytes = self._token_bytes.to(targets.device)
        return {
            "nats": nats.sum(dtype=torch.float64),  # many small terms: float32 would lose the last digits
            "correct": (logits.argmax(dim=-1) == targets).sum(dtype=torch.float64),
            "tokens": kept.sum(dtype=torch.float64),
            "bytes": self._token_bytes[targets[kept]].sum(),
        }

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """`loss` in nats per token, its `perplexity`, `accuracy`, and `bits_per_byte`.

        Only bits per byte, which divide by the bytes of UTF-8 that the tokens stand for, compare between tokenizers.
        """
        loss = totals["nats"] / totals["tokens"]
        return {
            "loss": loss,
            "bits_per_byte": totals["nats"] / math.log(2) / totals["bytes"],
            "perplexity": math.exp(loss) if loss < _LARGEST_EXPONENT else loss * math.inf,  # NaN stays NaN
            "accuracy": totals["correct"] / totals["tokens"],
        }

    def encode(self, text: str) -> Tensor:
        """Raises ValueError for text outside the vocabulary, or of which it has no token at all."""
        ids = self._known_tokenizer().encode(text)
        if len(ids) == 0:
            raise ValueError(f"{text!r} has no token in the vocabulary: give other text")
        return torch.from_numpy(ids.astype("int64"))

    def decode(self, ids: Tensor) -> str:
        return self._known_tokenizer().decode(ids.tolist())

    def state_dict(self) -> StateDict:
        """The vocabulary, which a checkpoint needs to be of use without the corpus."""
        return self._known_tokenizer().state()

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._adopt(tokenizer_from_state(state_dict))

    def keep_vocabulary(self, state_dict: StateDict) -> None:
        """Read the text by the tokenizer of a trained run, whatever the settings say."""
        tokenizer = tokenizer_from_state(state_dict)
        self.tokenizer = TokenizerChoice.of(tokenizer)
        self._adopt(tokenizer)

    def _adopt(self, tokenizer: Tokenizer) -> None:
        if self._tokenizer is not None and self._tokenizer != tokenizer:
            raise UserError(
                "the checkpoint's vocabulary is not that of the corpus: use the text that the checkpoint was trained on"
            )
        self._tokenizer, self.vocab_size = tokenizer, tokenizer.vocab_size
        self._token_bytes = torch.from_numpy(tokenizer.bytes_per_token())

    def _known_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            self.setup()
        assert self._tokenizer is not None
        return self._tokenizer

    def _split(self, name: str) -> Ids:
        self.setup()
        return self._splits[name]

    def _eval_loader(self, split: str) -> DataLoader[EvalBatch]:
        rank, processes = self._share()
        batches = EvalWindowBatches(
            self._split(split),
            seq_len=self.seq_len,
            batch_size=self.eval_batch_size,
            limit=None if self.eval_tokens is None else self.eval_tokens // self.seq_len,
            rank=rank,
            processes=processes,
        )
        return self._loader(batches, range(len(batches)))
