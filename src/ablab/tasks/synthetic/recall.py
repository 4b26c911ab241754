"""Multi-query associative recall."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Unpack

import numpy as np

from ablab.tasks.base import IGNORED
from ablab.tasks.batches import Fetch
from ablab.tasks.synthetic.base import HashSplitTask, Sample, Settings, SyntheticSettings, fetching


class Recall(HashSplitTask):
    """Key-value pairs, then each key again: at the second sight of a key, its value is asked for.

    Arora et al. 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models", section 3.1 and appendix
    on synthetic data. A sequence begins with `pairs` keys, each followed by its value. Every key then stands once more
    somewhere behind, at an even distance; small `power_a` puts most queries close to the pairs. What lies between is
    filled with random tokens. Keys of a sequence differ.

    We deviate in that training samples are fresh in every batch, in that the filler never is a key, so that no filler
    looks like a query, and by default in that values are drawn independently: Zoology's generator draws those of a
    sequence without repetition, as `repeat_values=false` does.

    With `segments` the test split has sequences of other lengths and numbers of pairs beside the main ones, as Zoology
    tests: each is a subset with a metric of its own, "test_accuracy/seq_len=128,pairs=16". Nothing trains on them.

    Args:
        vocab_size: tokens; the first half are keys (and 0, the first, is filler), the second half values.
        pairs: keys in a sequence.
        power_a: exponent of the power law of the gaps, above 0.
        repeat_values: the values of a sequence are drawn independently; else no two of its keys have the same one.
        segments: [seq_len, pairs] of each further segment of the test split, of `eval_samples` sequences each.
        (the others): as `HashSplitTask` says.

    Raises:
        ValueError: the pairs and their queries do not fit into the sequence, there are fewer keys than pairs, or a
            segment is given twice.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        pairs: int,
        power_a: float = 0.01,
        repeat_values: bool = True,
        segments: Sequence[Sequence[int]] = (),
        **settings: Unpack[SyntheticSettings],
    ) -> None:
        super().__init__(**settings)
        if pairs < 1 or 4 * pairs > self.seq_len:
            raise ValueError(f"task.pairs={pairs}: must be at least 1, and four tokens each fit into task.seq_len")
        if vocab_size // 2 - 1 < pairs:
            raise ValueError(f"task.vocab_size={vocab_size} has {vocab_size // 2 - 1} keys: give at least {pairs}")
        if not power_a > 0:
            raise ValueError(f"task.power_a={power_a}: must be above 0")
        self.vocab_size, self.pairs, self.power_a, self.repeat_values = vocab_size, pairs, power_a, repeat_values
        self.segments = [self._segment(segment, settings) for segment in segments]
        names = [segment.subset for segment in [self, *self.segments]]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"task.segments: {twice} is there twice (the main one counts): leave one out")

    @property
    def subset(self) -> str:
        """The name of the subset of the test split that these sequences are."""
        return f"seq_len={self.seq_len},pairs={self.pairs}"

    @property
    def max_length(self) -> int:
        return max(segment.seq_len for segment in [self, *self.segments])

    @property
    def settings(self) -> Settings:
        own: Settings = {"vocab_size": self.vocab_size, "pairs": self.pairs, "power_a": self.power_a}
        if not self.repeat_values:  # what was there before there was a choice has the name that it had
            own["repeat_values"] = False
        others = [[segment.seq_len, segment.pairs] for segment in self.segments]
        return {**own, "segments": others} if others else own

    def subsets(self, split: str) -> list[str]:
        if split == "val" or not self.segments:
            return [""]
        return [segment.subset for segment in [self, *self.segments]]

    def evaluation(self, split: str) -> list[tuple[Fetch, int]]:
        if split == "val":
            return super().evaluation(split)
        return [fetching(segment.samples("test")) for segment in [self, *self.segments]]

    def draw(self, generator: np.random.Generator, count: int) -> Sample:
        half, pairs = self.vocab_size // 2, self.pairs
        keys = 1 + generator.random((count, half - 1)).argsort(axis=1)[:, :pairs]
        values = self._values(generator, count)
        inputs = generator.integers(half, self.vocab_size, size=(count, self.seq_len))
        inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
        places = 2 * pairs + 2 * self._gaps(generator, count)
        targets = np.full_like(inputs, IGNORED)
        np.put_along_axis(inputs, places, keys, axis=1)
        np.put_along_axis(targets, places, values, axis=1)
        return inputs, targets

    def _segment(self, segment: Sequence[int], settings: SyntheticSettings) -> Recall:
        """The same task at another length."""
        if len(segment) != 2:
            raise ValueError(f"task.segments: {list(segment)} must be two numbers: [seq_len, pairs]")
        own: SyntheticSettings = {**settings, "seq_len": segment[0]}
        try:
            return Recall(
                vocab_size=self.vocab_size,
                pairs=segment[1],
                power_a=self.power_a,
                repeat_values=self.repeat_values,
                **own,
            )
        except ValueError as error:
            raise ValueError(f"task.segments: {list(segment)} is impossible: {error}") from error

    def _values(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """The value of each key, (count, pairs)."""
        half = self.vocab_size // 2
        if self.repeat_values:
            return generator.integers(half, self.vocab_size, size=(count, self.pairs))
        return half + generator.random((count, self.vocab_size - half)).argsort(axis=1)[:, : self.pairs]

    def _gaps(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """For each key (count, pairs) a slot of its own behind the pairs, by weights a * slot^(a - 1).

        The largest of log weights with Gumbel noise are a weighted draw without replacement (Yellott 1977).
        """
        slots = (self.seq_len - 2 * self.pairs) // 2
        logits = (self.power_a - 1) * np.log(np.arange(1, slots + 1))
        noisy = logits + generator.gumbel(size=(count, slots))
        return (-noisy).argsort(axis=1)[:, : self.pairs]

    def visible(self, window: int) -> float:
        """Share of the validation queries whose value is among the `window` tokens up to and including the query."""
        inputs, targets = self.samples("val")
        rows, queries = (targets != IGNORED).nonzero()
        keys = inputs[rows, : 2 * self.pairs : 2]
        value_at = 2 * (keys == inputs[rows, queries][:, None]).argmax(axis=1) + 1
        return float((queries - value_at < window).mean())

    @cached_property
    def oracle(self) -> dict[str, float]:
        """`chance` guesses one of the values. `window_8` and so on: what attention that looks 8 tokens back in the one
        layer that recalls can reach: all visible values, and a guess at the others.

        That layer reads a value at its own place, where the layer before it has put the key that precedes it. What
        several layers of window w pass on can exceed it, but nothing that is more than L (w - 1) tokens back reaches
        the last of L layers: the bound that they cannot exceed is the one of a single window of L (w - 1) + 1. In
        between lies what is passed on without its key, where a guess at one of the `pairs` values is right more often.
        Where values do not repeat, a window's guess is among those that the other keys can leave, 1 / (values - pairs + 1).
        """
        values = self.vocab_size - self.vocab_size // 2
        chance = 1 / values
        guess = chance if self.repeat_values else 1 / (values - self.pairs + 1)
        windows = [2**power for power in range(1, self.seq_len.bit_length()) if 2**power <= self.seq_len]
        seen = {window: self.visible(window) for window in windows}
        ceilings = {f"window_{window}": share + (1 - share) * guess for window, share in seen.items()}
        return {"chance": chance, "ceiling": 1.0, **ceilings}
