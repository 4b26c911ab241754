"""Classification of texts: which of several labels belongs to a text?"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.optimizer import StateDict

from ablab.errors import UserError
from ablab.results.record import Corpus
from ablab.tasks.answers import SampledTask, class_counts, class_scores
from ablab.tasks.balance import Balance, UnequalLengths, checked_balance
from ablab.tasks.base import IGNORED, Batch, TaskSettings, Totals
from ablab.tasks.batches import Fetch, Rows
from ablab.tasks.corpus import SourceFile, checked_fractions, fingerprint, unit_hash
from ablab.tasks.tables import Table, alike, read_tables
from ablab.tasks.tokenizers import Ids, Tokenizer, tokenizer_from_state
from ablab.tasks.tokenizers.choice import TokenizerChoice, tokenised
from ablab.tasks.tokenizers.plain import smallest_dtype

_log = logging.getLogger(__name__)


class Classification(UnequalLengths, SampledTask):
    """Texts of a table, each with its label. The primary metric is the accuracy on the validation texts.

    Texts are cut at `seq_len` tokens, and shorter ones filled up with a token of no text, the last of the vocabulary,
    which the model masks.

    Args:
        path: a CSV, TSV or JSON lines file, split by a hash of each text, so that equal texts share a split; or a
            folder with one such file for each split: `train`, `val` (`validation`, `dev`) and maybe `test`.
        text_column, label_column: names of the columns.
        tokenizer, bpe_vocab_size: as `TokenizerChoice` says.
        val_fraction, test_fraction: expected shares of the texts of a single file; the latter may be 0.
        balance: as `UnequalLengths` says.
        (the others): as `AnswerTask` says.

    Raises:
        ValueError: a number is out of range.
        UserError: no path was given.
    """

    pooled = True
    causal = False

    def __init__(
        self,
        *,
        path: str,
        text_column: str = "text",
        label_column: str = "label",
        tokenizer: str = "bytes",
        bpe_vocab_size: int = 4096,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        balance: Balance = "none",
        **settings: Unpack[TaskSettings],
    ) -> None:
        super().__init__(**settings)
        self.balance = checked_balance(balance)
        if not path or path == "???":  # what OmegaConf calls a missing value
            raise UserError("task.path is missing: give a CSV, TSV or JSON lines file, or a folder with train and val")
        self.path, self.text_column, self.label_column = path, text_column, label_column
        self.tokenizer = TokenizerChoice(tokenizer, bpe_vocab_size)
        self.fractions = checked_fractions(val_fraction, test_fraction)
        self.labels: list[str] = []
        self._tokenizer: Tokenizer | None = None
        self._samples: dict[str, tuple[Ids, NDArray[np.int64]]] = {}
        self._oracle: dict[str, float] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the texts. A second call does nothing.

        Raises:
            UserError: the files or a row of them cannot be used, there are less than two labels, or one of another
                split that no training text has.
        """
        if self._samples:
            return
        tables = read_tables(self.path, self.text_column, self.label_column)
        splits = self._split(tables)
        labels = self._checked_labels(splits)
        files = [table.file for table in tables.values()]
        texts = (SourceFile(split, text.encode()) for split, rows in splits.items() for text, _ in rows)
        depends_on = {"texts": fingerprint(texts), "seq_len": self.seq_len}  # as read: another reader reads other rows
        tokenizer, arrays = tokenised(self.tokenizer, depends_on, lambda: self._tokenise(splits))
        size_bytes = sum(len(file.data) for file in files)
        self.corpus = Corpus(name=self.path, sha256=fingerprint(files), size_bytes=size_bytes, files=len(files))
        self._adopt(tokenizer, labels)
        self._tell_of_texts(splits, arrays)
        numbers = {label: number for number, label in enumerate(labels)}
        self._samples = {
            split: (arrays[split], np.array([numbers[label] for _, label in rows])) for split, rows in splits.items()
        }
        self._oracle = _known(*self._samples["val"], self._samples["train"][1])

    @property
    def oracle(self) -> dict[str, float]:
        """`chance` always says the most frequent label of the training texts. `ceiling` says of equal texts (as the
        model sees them, so after the cut) their most frequent label."""
        return self._oracle

    def training(self) -> tuple[Fetch, int]:
        return self._part("train")

    def evaluation(self, split: str) -> list[tuple[Fetch, int]]:
        return [self._part(split)] if split in self._samples else []

    def totals(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Those of every answer task, and for each class how often it was right, was said, and should have been."""
        counts = class_counts(logits.argmax(dim=-1).flatten(), targets.flatten(), len(self.labels), IGNORED)
        return super().totals(logits, targets) | counts

    def metrics(self, totals: Totals) -> dict[str, float]:
        """`loss` in nats per text, `accuracy`; `precision`, `recall` and `f1` of each class and their means."""
        return super().metrics(totals) | class_scores(totals, self.labels)

    def encode(self, text: str) -> NoReturn:
        """Raises UserError: the answers are labels."""
        raise UserError("this task gives texts a label: there is nothing to write")

    def state_dict(self) -> StateDict:
        """The vocabulary and the labels, which a checkpoint needs to be of use without the texts."""
        if self._tokenizer is None:
            self.setup()
        assert self._tokenizer is not None
        return {"vocabulary": self._tokenizer.state(), "labels": self.labels}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._adopt(tokenizer_from_state(state_dict["vocabulary"]), state_dict["labels"])

    def _adopt(self, tokenizer: Tokenizer, labels: list[str]) -> None:
        if self._tokenizer is not None and (self._tokenizer, self.labels) != (tokenizer, labels):
            raise UserError(
                "the checkpoint's vocabulary or labels are not those of the texts: use those that it was trained on"
            )
        self._tokenizer, self.labels, self.n_outputs = tokenizer, labels, len(labels)
        self.padding, self.vocab_size = tokenizer.vocab_size, tokenizer.vocab_size + 1

    def _split(self, tables: dict[str, Table]) -> dict[str, list[tuple[str, str]]]:
        """Texts with labels of each split."""
        if "" not in tables:
            return {split: list(zip(table.texts, table.labels, strict=True)) for split, table in tables.items()}
        val, test = self.fractions
        splits: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], **({"test": []} if test else {})}
        for text, label in zip(tables[""].texts, tables[""].labels, strict=True):
            position = unit_hash("split", text)
            splits["val" if position < val else "test" if position < val + test else "train"].append((text, label))
        for split, rows in splits.items():
            if not rows:
                raise UserError(
                    f"{self.path}: none of its {len(tables[''].texts)} rows falls into the {split} split: give more, "
                    "or change task.val_fraction and task.test_fraction"
                )
        return splits

    def _checked_labels(self, splits: dict[str, list[tuple[str, str]]]) -> list[str]:
        """Those of the training texts, sorted; logs where two of them seem to be one."""
        labels = sorted({label for _, label in splits["train"]})
        if len(labels) < 2:
            raise UserError(f"{self.path}: all training texts have the label {labels[0]}: give texts of two or more")
        for split, rows in splits.items():
            unknown = {label for _, label in rows} - set(labels)
            if unknown:
                raise UserError(
                    f"{self.path}: the {split} split has the label {min(unknown)}, which no training text has: "
                    "give training texts with it, or leave it out"
                )
        if pair := alike(labels):
            _log.warning("%s: the labels %r and %r are two: write them alike if they are one", self.path, *pair)
        return labels

    def _tokenise(self, splits: dict[str, list[tuple[str, str]]]) -> tuple[Tokenizer, dict[str, NDArray[Any]]]:
        texts = {split: [text for text, _ in rows] for split, rows in splits.items()}
        tokenizer = self.tokenizer.make(
            training=lambda: texts["train"], corpus=lambda: [text for each in texts.values() for text in each]
        )
        arrays: dict[str, NDArray[Any]] = {}
        for split, each in texts.items():
            arrays[split], arrays[_lengths(split)] = _rows(tokenizer, each, self.seq_len)
        return tokenizer, arrays

    def _tell_of_texts(self, splits: dict[str, list[tuple[str, str]]], arrays: dict[str, NDArray[Any]]) -> None:
        """Raises UserError for a text without a token; logs how many were cut, or are in the training split too."""
        lengths = {split: arrays[_lengths(split)] for split in splits}
        for split, each in lengths.items():
            if not each.all():
                text = splits[split][int((each == 0).argmax())][0]
                raise UserError(f"{self.path}: the text {text!r} has no token in the vocabulary: leave it out")
        together = np.concatenate(list(lengths.values()))
        cut = int((together > self.seq_len).sum())
        if cut:
            _log.warning("%s: %d of %d texts cut at task.seq_len=%d", self.path, cut, len(together), self.seq_len)
        trained = {text for text, _ in splits["train"]}
        for split in splits.keys() - {"train"}:
            known = sum(text in trained for text, _ in splits[split])
            if known:
                _log.warning("%s: %d of %d %s texts are training texts", self.path, known, len(splits[split]), split)

    def _part(self, split: str) -> tuple[Fetch, int]:
        self.setup()
        texts, answers = self._samples[split]
        return partial(_fetch, texts, answers), len(answers)


def _fetch(texts: Ids, answers: NDArray[np.int64], rows: Rows) -> Batch:
    return torch.from_numpy(texts[rows].astype(np.int64)), torch.from_numpy(answers[rows][:, None])


def _lengths(split: str) -> str:
    return f"{split}_lengths"


def _rows(tokenizer: Tokenizer, texts: Sequence[str], seq_len: int) -> tuple[Ids, NDArray[np.int64]]:
    """Ids (N, seq_len), filled up with `vocab_size`, and the lengths (N,) before the cut."""
    filler = tokenizer.vocab_size
    rows = np.full((len(texts), seq_len), filler, dtype=smallest_dtype(filler + 1))
    lengths = np.zeros(len(texts), dtype=np.int64)
    for number, text in enumerate(texts):
        ids = tokenizer.encode(text)
        rows[number, : len(ids)] = ids[:seq_len]
        lengths[number] = len(ids)
    return rows, lengths


def _known(texts: Ids, answers: NDArray[np.int64], trained: NDArray[np.int64]) -> dict[str, float]:
    """Accuracies on the validation texts that need no training."""
    by_text: defaultdict[bytes, Counter[int]] = defaultdict(Counter)
    for text, answer in zip(texts, answers.tolist(), strict=True):
        by_text[text.tobytes()][answer] += 1
    best = sum(max(counts.values()) for counts in by_text.values())
    usual = np.bincount(trained).argmax()
    return {"chance": float((answers == usual).mean()), "ceiling": best / len(answers)}
