"""What can be reached at best with some of the modalities alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from itertools import combinations, product

import numpy as np

from ablab.tasks.multimodal.phrases import OPERATIONS, results

IMAGE, AUDIO, TEXT = MODALITIES = ("image", "audio", "text")


def subsets() -> list[tuple[str, ...]]:
    """Every choice of at least one modality: all of them first, then ever fewer."""
    return [each for size in (3, 2, 1) for each in combinations(MODALITIES, size)]


def part(subset: Collection[str]) -> str:
    """What a subset is called among the parts of an evaluation."""
    return f"with={'+'.join(subset)}"


def best_accuracy(subset: Collection[str]) -> float:
    """The accuracy of who reads the modalities of `subset` without a mistake and guesses the rest as well as can be.

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
