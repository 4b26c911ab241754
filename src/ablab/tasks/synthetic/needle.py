"""One fact in a long text, to be told at its end: accuracy over the length of the text and the depth of the fact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ablab.errors import UserError
from ablab.results.record import Corpus
from ablab.tasks.base import IGNORED
from ablab.tasks.batches import Fetch
from ablab.tasks.corpus import fingerprint, read_stdlib, split_by_name
from ablab.tasks.synthetic.base import Sample, Settings, Split, SyntheticTask, fetching, generator_of

MARK, FILLER, SYMBOL = 256, 257, 258  # behind the bytes: begins a fact and a question; follows the answer; first symbol
_TEST_SHARE = _VAL_SHARE = 0.1  # of the files of the text

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where things stand in a sequence of `length` tokens: text, fact, text, question and answer, by token numbers.

    The fact is a mark, a key and the value, the question the mark and the key again; the value's symbols are the
    targets of the question's last token and of all symbols of the answer but the last, which the model never reads.

    Args:
        length, fact: tokens of the sequence, and the number of the one at which its fact begins; alike in shape.
        value_length: symbols of the value.
    """

    length: Ints
    fact: Ints
    value_length: int

    @staticmethod
    def overhead(value_length: int) -> int:
        """Tokens that are no text: mark, key and value, mark and key, and the value but for its last symbol."""
        return 2 + value_length + 2 + value_length - 1

    @classmethod
    def at_depth(cls, length: Ints, depth: NDArray[np.float64], value_length: int) -> Layout:
        """That share `depth` of the text comes before the fact: all of it for 1."""
        text = length - cls.overhead(value_length)
        return cls(length, np.rint(depth * text).astype(np.int64), value_length)

    @property
    def value(self) -> Ints:
        """The first symbol of the value in the fact."""
        return self.fact + 2

    @property
    def behind_fact(self) -> Ints:
        return self.value + self.value_length

    @property
    def question(self) -> Ints:
        return self.length - self.value_length - 1

    @property
    def asked(self) -> Ints:
        """The token at which the first symbol of the value is to be told; the next ones follow."""
        return self.question + 1


class Needle(SyntheticTask):
    """A fact stands somewhere in a long text. At the end its key is given, and its value is asked for.

    After Kamradt 2023, "Needle In A Haystack", for models that learn the task itself: the text is source code of the
    running Python's standard library, cut at random places, byte by byte; the fact is a mark, a key of one symbol and
    a value of some, none of which the text contains. Each symbol of the value is predicted from the true ones before
    it. Training draws one of the lengths and any depth for each sample; evaluation has every length at every depth, as
    subsets "length=64,depth=0.5". Text of train, validation and test is from different files.

    Args:
        lengths: tokens of a sequence, text, fact, question and answer together; shorter ones are filled up behind.
        depths: of the fact in the evaluation, as shares of the text that come before it.
        symbols: different ones, of which keys and values are.
        value_length: symbols in a value.
        eval_samples: sequences of each length and depth in the validation split, and as many in the test split.
        max_bytes: use this much of the library, a sample of its files; None for all of it.
        (the others): as `SyntheticTask` says.

    Raises:
        ValueError: a number is out of range, or is given twice, or a length leaves no room for text.
    """

    def __init__(
        self,
        *,
        lengths: Sequence[int],
        depths: Sequence[float],
        symbols: int,
        value_length: int,
        batch_size: int,
        seed: int,
        max_bytes: int | None = None,
        eval_batch_size: int = 64,
        eval_samples: int = 32,
        workers: int = 0,
        target: float | None = None,
    ) -> None:
        if not lengths:
            raise ValueError("task.lengths=[]: give one or more")
        super().__init__(
            seq_len=max(lengths),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            eval_samples=eval_samples,
            workers=workers,
            seed=seed,
            target=target,
        )
        if symbols < 2:
            raise ValueError(f"task.symbols={symbols}: must be at least 2")
        if value_length < 1:
            raise ValueError(f"task.value_length={value_length}: must be at least 1")
        if not depths or not all(0 <= depth <= 1 for depth in depths):
            raise ValueError(f"task.depths={list(depths)}: give one or more shares from 0 to 1")
        least = Layout.overhead(value_length) + 1
        if min(lengths) < least:
            raise ValueError(f"task.lengths={list(lengths)}: each must have room for text, {least} tokens or more")
        written: dict[str, list[str]] = {
            "lengths": [f"{length}" for length in lengths],
            "depths": [f"{depth:g}" for depth in depths],
        }
        for name, values in written.items():
            if len(set(values)) < len(values):
                raise ValueError(f"task.{name}=[{', '.join(values)}]: each must be there once")
        self.lengths, self.depths = list(lengths), [float(depth) for depth in depths]
        self.symbols, self.value_length, self.max_bytes = symbols, value_length, max_bytes
        self.vocab_size = SYMBOL + symbols
        self._text: dict[Split, NDArray[np.uint8]] = {}

    @property
    def settings(self) -> Settings:
        return {
            "lengths": self.lengths,
            "depths": self.depths,
            "symbols": self.symbols,
            "value_length": self.value_length,
        }

    def subsets(self, split: str) -> list[str]:
        return [f"length={length},depth={depth:g}" for length, depth in self._cells]

    def evaluation(self, split: str) -> list[tuple[Fetch, int]]:
        inputs, targets = self.samples("val" if split == "val" else "test")
        cells = range(0, len(inputs), self.eval_samples)
        return [fetching((inputs[c : c + self.eval_samples], targets[c : c + self.eval_samples])) for c in cells]

    def evaluation_samples(self, split: Split) -> Sample:
        """Draw those of all subsets, `eval_samples` each, one subset behind the other."""
        ones = np.ones(self.eval_samples)
        cells = [
            self._written(generator_of(split, self.seed, index), split, length * ones.astype(np.int64), depth * ones)
            for index, (length, depth) in enumerate(self._cells)
        ]
        return np.concatenate([inputs for inputs, _ in cells]), np.concatenate([targets for _, targets in cells])

    def sample(self, split: Split, index: int, count: int) -> Sample:
        generator = generator_of(split, self.seed, index)
        return self._written(generator, split, generator.choice(self.lengths, size=count), generator.random(count))

    def setup(self, stage: str | None = None) -> None:
        """Read the library and draw the evaluation samples. Raises UserError if the library is too short."""
        super().setup(stage)

    def source(self) -> Corpus:
        files = read_stdlib(self.max_bytes)
        by_split = split_by_name(files, _VAL_SHARE, _TEST_SHARE)
        for split in ("train", "val", "test"):
            self._text[split] = np.frombuffer(b"".join(file.data for file in by_split[split]), dtype=np.uint8)
            if len(self._text[split]) < self.seq_len:
                raise UserError(
                    f"the Python standard library: {len(self._text[split])} bytes in the {split} split, task.lengths "
                    f"want {self.seq_len}: shorten task.lengths or raise task.max_bytes"
                )
        described = json.dumps(self.described, sort_keys=True)
        return Corpus(
            name=f"the Python standard library, with needles: {described}",
            sha256=hashlib.sha256(f"{fingerprint(files)} {described}".encode()).hexdigest(),
            size_bytes=sum(len(file.data) for file in files),
            files=len(files),
        )

    @cached_property
    def oracle(self) -> dict[str, float]:
        """`chance` guesses a symbol. `window_8` and so on: what attention that looks 8 tokens back in the one layer
        that recalls can reach: all values whose fact is that near in its subset, and a guess at the others.

        Several windowed layers could pass values on from one to the next and exceed it.
        """
        chance = 1 / self.symbols
        windows = [2**power for power in range(1, self.seq_len.bit_length()) if 2**power <= self.seq_len]
        seen = {window: self.visible(window) for window in windows}
        ceilings = {f"window_{window}": share + (1 - share) * chance for window, share in seen.items()}
        return {"chance": chance, "ceiling": 1.0, **ceilings}

    def visible(self, window: int) -> float:
        """Share of the evaluation's subsets in which the value is among the `window` tokens up to and including the one
        at which it is asked for."""
        lengths, depths = (np.array(column) for column in zip(*self._cells, strict=True))
        layout = Layout.at_depth(lengths, depths, self.value_length)
        return float((layout.asked - layout.value < window).mean())  # the same distance for each symbol of a value

    @property
    def _cells(self) -> list[tuple[int, float]]:
        return list(product(self.lengths, self.depths))

    def _written(
        self, generator: np.random.Generator, split: Split, lengths: Ints, depths: NDArray[np.float64]
    ) -> Sample:
        """Samples of those lengths and depths, each (N,)."""
        layout = Layout.at_depth(lengths, depths, self.value_length)
        count, rows = len(lengths), np.arange(len(lengths))
        key = generator.integers(SYMBOL, self.vocab_size, size=count)
        value = generator.integers(SYMBOL, self.vocab_size, size=(count, self.value_length))

        places = np.arange(self.seq_len)
        fact_length = 2 + self.value_length
        passed = places - fact_length * (places >= layout.behind_fact[:, None])  # how much text came before
        starts = generator.integers(0, len(self._text[split]) - self.seq_len + 1, size=count)
        inputs = self._text[split][starts[:, None] + passed].astype(np.int64)

        inputs[rows, layout.fact] = inputs[rows, layout.question] = MARK
        inputs[rows, layout.fact + 1] = inputs[rows, layout.asked] = key
        symbols = np.arange(self.value_length)
        inputs[rows[:, None], layout.value[:, None] + symbols] = value
        inputs[rows[:, None], layout.asked[:, None] + 1 + symbols[:-1]] = value[:, :-1]
        inputs[places >= layout.length[:, None]] = FILLER
        targets = np.full_like(inputs, IGNORED)
        targets[rows[:, None], layout.asked[:, None] + symbols] = value
        return inputs, targets
