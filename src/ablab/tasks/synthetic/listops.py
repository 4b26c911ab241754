"""ListOps: nested operators over digits, to be worked out."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ablab.results.record import Corpus
from ablab.tasks.balance import Balance, UnequalLengths, checked_balance
from ablab.tasks.base import Batch
from ablab.tasks.batches import EpochBatches
from ablab.tasks.cache import Arrays, cached
from ablab.tasks.synthetic.base import (
    Sample,
    Settings,
    Split,
    SyntheticSettings,
    SyntheticTask,
    belongs,
    fetching,
    generator_of,
)
from ablab.tasks.synthetic.listops_files import WORDS, file_of, read_expressions, sha256
from ablab.tasks.synthetic.trees import CLOSE, DIGITS, PADDING, Ints, draw_shapes, fill

_VERSION = 1  # of the drawing; another one is another key of what is kept on disk
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_REFILLS = 200  # of one shape; the smallest has 400 fillings, a tenth of them in a split


class ListOps(UnequalLengths, SyntheticTask):
    """What is the value of `[MAX 2 9 [MIN 4 7 ] 0 ]`? One digit for the whole expression.

    Nangia and Bowman 2018, "ListOps: A Diagnostic Dataset for Latent Tree Learning"; in the form of Tay et al. 2021,
    "Long Range Arena", section 2.2.1, and its released code, whose distribution (`trees` says which) and bounds these
    are. An expression is followed by padding. Operators are MIN, MAX, MED (of an even number the mean of the middle
    two, rounded down) and SM (sum modulo 10).

    We deviate in that training samples are fresh in every batch, not 96,000. Splits are disjoint by a hash of the
    tokens, but to draw until a tenth of all trees falls into one would waste most of them: a shape is drawn once, and
    filled with operators and digits until the whole belongs to the split. As these do not depend on the shape, its
    distribution is that of the source exactly. Two splits can have a shape in common, never a sample.

    Args:
        max_depth: of an expression; a digit by itself has depth 1.
        max_args: arguments of an operator at most; at least are 2.
        min_length: every expression has more tokens than this, and less than `seq_len`.
        path: None, or a folder with the Arena's own files, which are then read; a relative one starts at the working
            directory. `eval_samples` takes the first so many of the validation and the test file, and the three
            settings above have nothing to say.
        balance: as `UnequalLengths` says.
        (the others): as `SyntheticTask` says.

    Raises:
        ValueError: a number is out of range.
    """

    vocab_size = CLOSE + 1
    n_outputs = DIGITS
    padding = PADDING
    pooled = True
    causal = False

    def __init__(
        self,
        *,
        max_depth: int,
        max_args: int,
        min_length: int,
        path: str | None = None,
        balance: Balance = "none",
        **settings: Unpack[SyntheticSettings],
    ) -> None:
        super().__init__(**settings)
        self.balance = checked_balance(balance)
        for name, value in {"max_depth": max_depth, "max_args": max_args}.items():
            if value < 2:
                raise ValueError(f"task.{name}={value}: must be at least 2")
        if path is None and not 1 <= min_length < self.seq_len - 1:  # of files nothing is drawn
            raise ValueError(
                f"task.min_length={min_length}: must be at least 1, and two below task.seq_len={self.seq_len} or less"
            )
        self.max_depth, self.max_args, self.min_length, self.path = max_depth, max_args, min_length, path
        self._files: dict[Split, Arrays] = {}

    @property
    def settings(self) -> Settings:
        return {"max_depth": self.max_depth, "max_args": self.max_args, "min_length": self.min_length}

    def sample(self, split: Split, index: int, count: int) -> Sample:
        generator = generator_of(split, self.seed, index)
        inputs = np.full((count, self.seq_len), PADDING)
        answers = np.zeros(count, dtype=np.int64)
        missing = np.arange(count)
        while len(missing):
            missing = self._draw(generator, split, missing, inputs, answers)
        return inputs, answers[:, None]

    def _draw(self, generator: np.random.Generator, split: Split, rows: Ints, inputs: Ints, answers: Ints) -> Ints:
        """Fill those rows with trees of the split; the rows for whose shapes no filling was found."""
        shapes = draw_shapes(
            generator,
            len(rows),
            max_depth=self.max_depth,
            max_args=self.max_args,
            min_length=self.min_length,
            max_length=self.seq_len,
        )
        for _ in range(_REFILLS):
            tokens = np.full((len(rows), self.seq_len), PADDING)
            answers[rows] = fill(shapes, generator, tokens)
            inputs[rows] = tokens
            other = ~belongs(tokens, split)
            rows = rows[other]
            if not len(rows):
                break
            shapes = shapes[other]
        return rows

    def setup(self, stage: str | None = None) -> None:
        """Draw the evaluation samples, or read the files; what was made before is taken from the cache.

        Raises:
            ValueError: next to no expression has the length that is asked for.
            UserError: a file is missing or damaged, or holds an expression that is longer than `seq_len`.
        """
        super().setup(stage)

    def source(self) -> Corpus:
        if self.path is None:
            return super().source()
        paths = {split: file_of(self.path, split) for split in _SPLITS}
        checksums = {split: sha256(path) for split, path in paths.items()}
        self._files = {split: read_expressions(paths[split], checksums[split], self.seq_len) for split in _SPLITS}
        return Corpus(
            name=self.path,
            sha256=hashlib.sha256("".join(checksums.values()).encode()).hexdigest(),
            size_bytes=sum(path.stat().st_size for path in paths.values()),
            files=len(paths),
        )

    def evaluation_samples(self, split: Split) -> Sample:
        if self.path is not None:
            inputs, answers = self._read(split)
            return inputs[: self.eval_samples].astype(np.int64), answers[: self.eval_samples].astype(np.int64)
        depends_on = {
            **self.described,
            "version": _VERSION,
            "numpy": np.__version__,  # which may change what its generators draw
            "seed": self.seed,
            "split": split,
            "count": self.eval_samples,
        }

        def make() -> Arrays:
            inputs, answers = self.sample(split, 0, self.eval_samples)
            return {"inputs": inputs.astype(np.uint8), "answers": answers.astype(np.uint8)}

        kept = cached("listops", depends_on, make)
        return kept["inputs"].astype(np.int64), kept["answers"].astype(np.int64)

    def train_batches(self, rank: int, processes: int) -> Dataset[Batch]:
        if self.path is None:
            return super().train_batches(rank, processes)
        fetch, count = fetching(self._read("train"))
        return EpochBatches(fetch, count, batch_size=self.batch_size, seed=self.seed, rank=rank, processes=processes)

    @cached_property
    def oracle(self) -> dict[str, float]:
        """`chance` gives the answer that is most frequent elsewhere: in the training file, or in the test samples."""
        _, others = self.samples("test")
        if self.path is not None:
            others = self._files["train"]["answers"]
        _, own = self.samples("val")
        return {"chance": float((own == np.bincount(others.ravel()).argmax()).mean()), "ceiling": 1.0}

    def encode(self, text: str) -> Tensor:
        """The ids (T,) of an expression, as in `[MAX 2 9 ]`. Raises ValueError for what is no token."""
        unknown = next((word for word in text.split() if word not in WORDS), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is no token of an expression: there are {' '.join(WORDS)}, spaces between")
        return torch.tensor([WORDS[word] for word in text.split()], dtype=torch.long)

    def decode(self, ids: Tensor) -> str:
        """The expression of `ids` (T,), without its padding."""
        names = {number: word for word, number in WORDS.items()}
        return " ".join(names[token] for token in ids.tolist() if token != PADDING)

    def _read(self, split: Split) -> Sample:
        """All that a file holds, as small integers that stay on the disk until they are looked at."""
        arrays = self._files[split]
        return arrays["inputs"], arrays["answers"][:, None]
