"""Multi-query associative recall."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ablab.tasks.base import IGNORED
from ablab.tasks.generated.base import GeneratedTask
from ablab.tasks.generated.splits import Sample


class Recall(GeneratedTask):
    """Key-value pairs, then each key again: at the second sight of a key, its value is asked for.

    Arora et al. 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models", section 3.1 and appendix
    on synthetic data. A sequence begins with `pairs` keys, each followed by its value. Every key then stands once more
    somewhere behind, at an even distance; small `power_a` puts most queries close to the pairs. What lies between is
    filled with random tokens. Keys of a sequence differ; values are drawn independently.

    We deviate in that training samples are fresh in every batch, and in that the filler never is a key, so that no
    filler looks like a query.

    Args:
        vocab_size: tokens; the first half are keys (and 0, the first, is filler), the second half values.
        pairs: keys in a sequence.
        power_a: exponent of the power law of the gaps, above 0.
        (the others): as `GeneratedTask` says.

    Raises:
        ValueError: the pairs and their queries do not fit into the sequence, or there are fewer keys than pairs.
    """

    def __init__(self, *, vocab_size: int, pairs: int, power_a: float = 0.01, **settings: Any) -> None:
        super().__init__(**settings)
        if pairs < 1 or 4 * pairs > self.seq_len:
            raise ValueError(f"task.pairs={pairs}: must be at least 1, and four tokens each fit into task.seq_len")
        if vocab_size // 2 - 1 < pairs:
            raise ValueError(f"task.vocab_size={vocab_size} has {vocab_size // 2 - 1} keys: give at least {pairs}")
        if not power_a > 0:
            raise ValueError(f"task.power_a={power_a}: must be above 0")
        self.vocab_size, self.pairs, self.power_a = vocab_size, pairs, power_a

    @property
    def settings(self) -> dict[str, Any]:
        return {"vocab_size": self.vocab_size, "pairs": self.pairs, "power_a": self.power_a}

    def draw(self, generator: np.random.Generator, count: int) -> Sample:
        half, pairs = self.vocab_size // 2, self.pairs
        keys = 1 + generator.random((count, half - 1)).argsort(axis=1)[:, :pairs]
        values = generator.integers(half, self.vocab_size, size=(count, pairs))
        inputs = generator.integers(half, self.vocab_size, size=(count, self.seq_len))
        inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
        places = 2 * pairs + 2 * self._gaps(generator, count)
        targets = np.full_like(inputs, IGNORED)
        np.put_along_axis(inputs, places, keys, axis=1)
        np.put_along_axis(targets, places, values, axis=1)
        return inputs, targets

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
        """`chance` guesses one of the values. `window_8` and so on: what attention that looks `window` tokens back in
        the one layer that recalls can reach: all visible values, and a guess at the others.

        Several windowed layers could pass values on from one to the next and exceed it.
        """
        chance = 1 / (self.vocab_size - self.vocab_size // 2)
        windows = [2**power for power in range(1, self.seq_len.bit_length()) if 2**power <= self.seq_len]
        seen = {window: self.visible(window) for window in windows}
        ceilings = {f"window_{window}": share + (1 - share) * chance for window, share in seen.items()}
        return {"chance": chance, "ceiling": 1.0, **ceilings}
