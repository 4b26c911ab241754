"""Which split a generated sample belongs to, and drawing samples of one split.

A hash of a sample's own tokens decides, so that no sample can be in two splits, whoever draws it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
Sample = tuple[NDArray[np.int64], NDArray[np.int64]]  # inputs and targets, each (N, T)
Draw = Callable[[np.random.Generator, int], Sample]

_KEYS = {"train": 0, "val": 1, "test": 2}
_SHARES: dict[str, tuple[float, float]] = {"val": (0.0, 0.1), "test": (0.1, 0.2), "train": (0.2, 1.0)}
_ATTEMPTS = 200  # draws, each of at least as many samples as are wanted


def split_of(inputs: NDArray[np.int64]) -> NDArray[np.float64]:
    """A number in [0, 1) for each row (N,) of inputs (N, T): below 0.1 val, below 0.2 test, else train."""
    factors = np.random.default_rng(inputs.shape[1]).integers(1, 2**63, size=inputs.shape[1], dtype=np.uint64) | 1
    mixed = ((inputs.astype(np.uint64) + 1) * factors).sum(axis=1, dtype=np.uint64)  # modulo 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 (Steele et al. 2014)
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    numbers: NDArray[np.float64] = (mixed ^ (mixed >> np.uint64(31))) / 2.0**64
    return numbers


def belongs(inputs: NDArray[np.int64], split: Split) -> NDArray[np.bool_]:
    """Which rows (N,) of inputs (N, T) are of that split."""
    low, high = _SHARES[split]
    place = split_of(inputs)
    return (low <= place) & (place < high)


def generator_of(split: Split, seed: int, index: int) -> np.random.Generator:
    """What to draw the samples of batch `index` of a split from."""
    return np.random.default_rng([seed, _KEYS[split], index])


def draw_split(draw: Draw, split: Split, seed: int, index: int, count: int) -> Sample:
    """`count` samples of a split: a function of seed, split and index.

    Raises:
        ValueError: the task has next to no different samples, and none of this split was found.
    """
    generator = generator_of(split, seed, index)
    low, high = _SHARES[split]
    size = int(count / (high - low) * 1.2) + 8
    kept: list[Sample] = []
    have = 0
    for _ in range(_ATTEMPTS):
        inputs, targets = draw(generator, size)
        mine = belongs(inputs, split)
        kept.append((inputs[mine], targets[mine]))
        have += int(mine.sum())
        if have >= count:
            return np.concatenate([i for i, _ in kept])[:count], np.concatenate([t for _, t in kept])[:count]
    raise ValueError(f"there are too few different samples for a {split} split: make them longer or more varied")
