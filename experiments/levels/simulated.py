"""Simulated studies, judged as real ones are: the values of a baseline and of variants, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablab.analysis.family import Claim, adjust
from ablab.analysis.verdicts import Evidence, Verdict, judge

FloatArray = NDArray[np.float64]
Shape = tuple[int, ...]

CORRELATION = 0.8  # of two variants on one seed
DIFFERENCE_SD = math.sqrt(2 * (1 - CORRELATION))  # of a paired difference, when values have a variance of 1
VARIANTS, SEEDS = (1, 3, 5, 8), (3, 5, 10)
NOISES: dict[str, Callable[[np.random.Generator, Shape], FloatArray]] = {  # each of mean 0 and variance 1
    "normal": lambda generator, shape: generator.normal(size=shape),
    "t3": lambda generator, shape: generator.standard_t(3, size=shape) / math.sqrt(3),
    "skewed": lambda generator, shape: generator.exponential(size=shape) - 1,
}


@dataclass(frozen=True)
class Cell:
    """What was counted in one kind of study."""

    where: str
    rate: float
    studies: int

    @property
    def error(self) -> float:
        """The standard error of the rate."""
        return math.sqrt(self.rate * (1 - self.rate) / self.studies)


@dataclass(frozen=True)
class Row:
    """A line of the table: what is counted, and what it should be."""

    name: str
    counted: str
    nominal: float
    cells: list[Cell]
    at_least: bool = False  # else at most

    @property
    def worst(self) -> Cell:
        return (min if self.at_least else max)(self.cells, key=lambda cell: cell.rate)


def kinds() -> Iterator[tuple[int, int, str]]:
    """Every number of variants, of seeds, and kind of noise."""
    for variants in VARIANTS:
        for seeds in SEEDS:
            yield from ((variants, seeds, noise) for noise in NOISES)


def named(variants: int, seeds: int, noise: str) -> str:
    return f"{variants} variant{'s' if variants > 1 else ''}, {seeds} seeds, {noise}"


def tables(studies: int, variants: int, seeds: int, noise: str = "normal", key: int = 0) -> FloatArray:
    """[studies, 1 + variants, seeds] values, the baseline's first: a part of each seed, and a part of each run."""
    generator = np.random.default_rng([variants, seeds, list(NOISES).index(noise), key])
    draw = NOISES[noise]
    of_seed, of_run = draw(generator, (studies, 1, seeds)), draw(generator, (studies, 1 + variants, seeds))
    return math.sqrt(CORRELATION) * of_seed + math.sqrt(1 - CORRELATION) * of_run


def claims(table: FloatArray, margin: float | None = None, task: str = "task", on_suite: bool = False) -> list[Claim]:
    """One comparison for each variant of a [1 + variants, seeds] table."""
    base, found = dict(enumerate(table[0].tolist())), []
    for place, row in enumerate(table[1:]):
        differences = tuple((row - table[0]).tolist())
        evidence = _evidence(f"variant{place}", differences, margin)
        found.append(Claim(task, evidence, dict(enumerate(row.tolist())), base, on_suite))
    return found


def _evidence(label: str, differences: tuple[float, ...], margin: float | None) -> Evidence:
    runs = len(differences)
    return Evidence(
        label=label,
        overrides=label,
        metric="val_loss",
        direction="min",
        planned=runs,
        differences=differences,
        ended=runs,
        diverged=0,
        baseline_ended=runs,
        baseline_diverged=0,
        margin=margin,
    )


def judged(of: Sequence[Claim]) -> list[tuple[Evidence, Verdict]]:
    """The comparisons of a study as a report has them."""
    return [(evidence, judge(evidence)) for evidence, _ in adjust(of)]
