"""Instructions in words, and what they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Digits = NDArray[np.int64]

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
    """What each operation gives, in the order of `OPERATIONS`: (operations, ...) for digits of one shape (...)."""
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
