"""Instructions in words, what they ask for, and what can be reached at best with some of the modalities alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

Digits = NDArray[np.int64]

IMAGE, AUDIO, TEXT = MODALITIES = ("image", "audio", "text")

NO_WORD = 0  # the id behind the end of a short instruction

# Operation -> several phrasings. "Written" is the digit of the image, "spoken" that of the sound.
OPERATIONS = {
    "add": (
        "add the two digits",
        "what is the sum of both",
        "the written digit plus the spoken one",
        "how much are the two together",
    ),
    "subtract": (
        "subtract the spoken digit from the written one",
        "the written digit minus the spoken one",
        "take the spoken one away from the written digit",
        "what is left of the written digit without the spoken one",
    ),
    "larger": (
        "which of the two digits is larger",
        "give the larger one",
        "what is the greater of both",
        "the maximum of the written and the spoken digit",
    ),
}


def results(written: Digits, spoken: Digits) -> NDArray[np.int64]:
    """Work out each operation, in the order of `OPERATIONS`: (operations, ...) for digits of one shape (...)."""
    return np.stack([written + spoken, written - spoken, np.maximum(written, spoken)])


@dataclass(frozen=True)
class Phrases:
    """All phrasings as ids of words.

    Attributes:
        ids: (operations, phrasings, longest), filled up with `NO_WORD`.
        vocab_size: ids.
    """

    ids: NDArray[np.int64]
    vocab_size: int

    @classmethod
    def of_operations(cls) -> Phrases:
        phrases = [[phrase.split() for phrase in each] for each in OPERATIONS.values()]
        words = sorted({word for each in phrases for phrase in each for word in phrase})
        number = {word: index for index, word in enumerate(words, start=NO_WORD + 1)}
        longest = max(len(phrase) for each in phrases for phrase in each)
        ids = np.full((len(phrases), len(phrases[0]), longest), NO_WORD)
        for operation, each in enumerate(phrases):
            for phrasing, phrase in enumerate(each):
                ids[operation, phrasing, : len(phrase)] = [number[word] for word in phrase]
        return cls(ids, len(words) + 1)

    @property
    def longest(self) -> int:
        """Words of the longest one."""
        return int(self.ids.shape[-1])

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Operations, and phrasings of each."""
        return self.ids.shape[0], self.ids.shape[1]


def modality_subsets() -> list[tuple[str, ...]]:
    """List every choice of at least one modality: all of them first, then ever fewer."""
    return [each for size in (3, 2, 1) for each in combinations(MODALITIES, size)]


def subset_name(subset: Collection[str]) -> str:
    """Name a subset of the modalities among the subsets of an evaluation."""
    return f"with={'+'.join(subset)}"


def best_accuracy(subset: Collection[str]) -> float:
    """Return the accuracy of who reads `subset` without a mistake and guesses the rest as well as can be.

    Written digit, spoken digit and operation are independent and uniform; so for what is seen, the answer that most of
    the rest agree on is the best one (the Bayes rule).
    """
    digits = np.arange(10)
    answers = results(digits[:, None], digits[None, :])  # (operations, written, spoken)
    votes: dict[tuple[int, ...], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for written, spoken, operation in product(range(10), range(10), range(len(OPERATIONS))):
        known = {IMAGE: written, AUDIO: spoken, TEXT: operation}
        seen = tuple(known[name] for name in MODALITIES if name in subset)
        votes[seen][int(answers[operation, written, spoken])] += 1
    return sum(max(each.values()) for each in votes.values()) / answers.size
