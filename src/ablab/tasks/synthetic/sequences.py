"""Tasks in which a sequence is to be repeated, sorted, or summed up; each asks for one thing that attention can do."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np

from ablab.tasks.base import IGNORED
from ablab.tasks.synthetic.base import HashSplitTask, Sample, Settings, SyntheticSettings

BLANK, GO = 0, 1  # filler; and the mark after which the answer is written
_MARKS = 2


class _SymbolSettings(SyntheticSettings):
    symbols: int


class _SymbolTask(HashSplitTask):
    """Sequences of `symbols` different tokens behind two marks.

    Args:
        symbols: tokens that stand for something; the vocabulary is two larger.
        (the others): as `HashSplitTask` says.

    Raises:
        ValueError: there are fewer than two symbols, or the sequence has no room for what is asked.
    """

    shortest: ClassVar[int] = 1  # sequence that has room for what is asked

    def __init__(self, *, symbols: int, **settings: Unpack[SyntheticSettings]) -> None:
        super().__init__(**settings)
        if self.seq_len < self.shortest:
            raise ValueError(f"task.seq_len={self.seq_len}: must be at least {self.shortest}")
        if symbols < 2:
            raise ValueError(f"task.symbols={symbols}: must be at least 2")
        self.symbols, self.vocab_size = symbols, symbols + _MARKS

    @property
    def settings(self) -> Settings:
        return {"symbols": self.symbols}

    @property
    def oracle(self) -> dict[str, float]:
        """`chance` guesses a symbol."""
        return {"chance": 1 / self.symbols, "ceiling": 1.0}

    def _symbols(self, generator: np.random.Generator, *shape: int) -> np.ndarray:
        return generator.integers(_MARKS, self.vocab_size, size=shape)


class _AnswerTask(_SymbolTask):
    """`length` symbols are shown, and after `GO` `length` are to be written, each seeing those before it."""

    @property
    def length(self) -> int:
        """Symbols that are shown, and as many that are asked for: what fits around the mark."""
        return self.seq_len // 2

    def _joined(self, shown: np.ndarray, answer: np.ndarray) -> Sample:
        """Inputs: what is shown, GO, the answer but for its end. Each answer is the target of the token before it."""
        count, length = answer.shape
        inputs = np.full((count, self.seq_len), BLANK)
        targets = np.full((count, self.seq_len), IGNORED)
        start = shown.shape[1]
        inputs[:, :start], inputs[:, start] = shown, GO
        inputs[:, start + 1 : start + length] = answer[:, :-1]
        targets[:, start : start + length] = answer
        return inputs, targets


class Copying(_AnswerTask):
    """Write down again what was shown (Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016, section 4.1)."""

    def draw(self, generator: np.random.Generator, count: int) -> Sample:
        shown = self._symbols(generator, count, self.length)
        return self._joined(shown, shown)


class Sorting(_AnswerTask):
    """Write down what was shown in ascending order (Graves et al. 2014, section 4.5, without priorities)."""

    def draw(self, generator: np.random.Generator, count: int) -> Sample:
        shown = self._symbols(generator, count, self.length)
        return self._joined(shown, np.sort(shown, axis=1))

    @property
    def oracle(self) -> dict[str, float]:
        """`chance` writes, at each place, the symbol that is most often there in the sorted order of others."""
        _, targets = self.samples("test")
        answers = targets[targets != IGNORED].reshape(len(targets), self.length)
        usual = np.array([np.bincount(place).argmax() for place in answers.T])
        _, own = self.samples("val")
        asked = own[own != IGNORED].reshape(len(own), self.length)
        return {"chance": float((asked == usual).mean()), "ceiling": 1.0}


class SelectiveCopying(_AnswerTask):
    """Write down the symbols among blanks, in their order (Gu and Dao 2023, "Mamba", section 4.1.1).

    Args:
        memorize: symbols among the blanks.
        (the others): as `HashSplitTask` says.

    Raises:
        ValueError: the symbols do not fit twice into the sequence.
    """

    def __init__(self, *, memorize: int, **settings: Unpack[_SymbolSettings]) -> None:
        super().__init__(**settings)
        if memorize < 1 or 2 * memorize > self.seq_len:
            raise ValueError(f"task.memorize={memorize}: must be at least 1 and fit twice into task.seq_len")
        self.memorize = memorize

    @property
    def settings(self) -> Settings:
        return {"symbols": self.symbols, "memorize": self.memorize}

    def draw(self, generator: np.random.Generator, count: int) -> Sample:
        answer = self._symbols(generator, count, self.memorize)
        room = self.seq_len - self.memorize
        places = np.sort(generator.random((count, room)).argsort(axis=1)[:, : self.memorize], axis=1)
        shown = np.full((count, room), BLANK)
        np.put_along_axis(shown, places, answer, axis=1)
        return self._joined(shown, answer)


class Induction(_SymbolTask):
    """What followed this token when it was last here? Asked once, at the end.

    Olsson et al. 2022, "In-context Learning and Induction Heads"; in the form of Fu et al. 2023, "H3", section 3.1: a
    mark stands once somewhere in random symbols, and stands at the end again; the symbol behind its first place is
    asked for.
    """

    shortest = 3  # the mark, a symbol and the mark again

    def draw(self, generator: np.random.Generator, count: int) -> Sample:
        inputs = self._symbols(generator, count, self.seq_len)
        targets = np.full_like(inputs, IGNORED)
        rows = np.arange(count)
        places = generator.integers(0, self.seq_len - 2, size=count)
        inputs[rows, places] = inputs[:, -1] = GO
        targets[:, -1] = inputs[rows, places + 1]
        return inputs, targets


class Parity(HashSplitTask):
    """Is the number of ones so far odd? Asked at the end, or at every place.

    Hahn 2020, "Theoretical Limitations of Self-Attention": attention of fixed depth cannot decide it for all lengths.

    Args:
        every_place: ask at each token, not at the last one alone.
        (the others): as `HashSplitTask` says.
    """

    vocab_size = 2

    def __init__(self, *, every_place: bool = False, **settings: Unpack[SyntheticSettings]) -> None:
        super().__init__(**settings)
        self.every_place = every_place

    @property
    def settings(self) -> Settings:
        return {"every_place": self.every_place}

    @property
    def oracle(self) -> dict[str, float]:
        """`chance` guesses one of two."""
        return {"chance": 0.5, "ceiling": 1.0}

    def draw(self, generator: np.random.Generator, count: int) -> Sample:
        inputs = generator.integers(0, 2, size=(count, self.seq_len))
        parities = inputs.cumsum(axis=1) % 2
        if not self.every_place:
            parities[:, :-1] = IGNORED
        return inputs, parities
