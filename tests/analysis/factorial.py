"""Synthetic factorial studies: every combination of options with each seed, and a loss that the test chooses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from synthetic import ended, record

from ablab.results.record import Record


def factorial(
    axes: Mapping[str, Sequence[str]], loss: Callable[..., float], seeds: int = 5, **changes: Any
) -> list[Record]:
    """A record per combination and seed 1, 2, ...; `loss` is given the options in the order of `axes`, then the seed.

    A NaN is a diverged run.
    """
    records = []
    for options in itertools.product(*axes.values()):
        chosen = dict(zip(axes, options, strict=True))
        for seed in range(1, seeds + 1):
            value = loss(*options, seed)
            records.append(
                ended("diverged", "train_loss became nan at step 7", seed, axes=chosen, **changes)
                if math.isnan(value)
                else record(seed, value, axes=chosen, **changes)
            )
    return records
