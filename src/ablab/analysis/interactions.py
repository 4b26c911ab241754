"""Do two changes add up? Differences of differences, seed by seed, in the metric's own unit.

For the options a and b of two factors, and a0 and b0, the baseline's, each seed gives

    (y[a, b] - y[a0, b]) - (y[a, b0] - y[a0, b0])

averaged over the settings of the other factors in which all four were run (the *contexts*), so that a seed counts only
if it has all of them. The seeds are then treated as those of an effect are: a paired t interval, and p values adjusted
with Holm over all interactions of the study, on all its tasks, which are a family of their own at `LEVEL`. At
`FEWEST_SEEDS` seeds the t interval is still the interaction's own (with two degrees of freedom it is wide, and holds
its level) and the finding is called preliminary. Below, only the values are shown.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ablab.analysis.choice_noise import choice_of
from ablab.analysis.dimensions import Cells, Dimension, cells_of, dimensions
from ablab.analysis.estimates import FEWEST_SEEDS, FULL_SEEDS, LEVEL, Estimate, Interval, holm, paired
from ablab.analysis.family import COUNTED
from ablab.analysis.looks import Looks, looks_of
from ablab.analysis.notes import NoValue, SeedNotRun
from ablab.analysis.pairing import Outcome, choices, outcomes
from ablab.results.collect import Runs
from ablab.results.record import Record

Cell = dict[int, Outcome]  # by seed
_ROUNDING = 8 * float(np.finfo(float).eps)  # of a sum of four values: less than this of the largest is no difference


@dataclass(frozen=True)
class Missing:
    """A run that a seed would need to count."""

    variant: str
    why: NoValue | SeedNotRun


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """One pair of options beside the baseline's: what they do together beyond the sum of what each does alone."""

    factors: tuple[str, str]
    options: tuple[str, str]
    metric: str
    contexts: int  # settings of the other factors that it is averaged over
    seeds: tuple[int, ...]  # of `differences`
    differences: tuple[float, ...]  # of differences, one per complete seed, in the metric's unit
    missing: tuple[Missing, ...]  # why other seeds do not count
    level: float  # of the interval
    planned: bool = False  # there are several looks by a plan, of which an earlier one may have decided
    choice: float = 0.0  # the standard error that tuning adds
    estimate: Estimate | None = None  # None below FEWEST_SEEDS
    p_adjusted: float | None = None  # Holm's, over all looks, to be held against `LEVEL`

    @property
    def effect(self) -> float | None:
        """The mean over seeds; None without a complete seed."""
        return math.fsum(self.differences) / len(self.differences) if self.differences else None

    @property
    def interval(self) -> Interval | None:
        return self.estimate.interval(1 - self.level) if self.estimate else None

    @property
    def p_value(self) -> float | None:
        """Not adjusted."""
        return self.estimate.p_value if self.estimate else None

    @property
    def preliminary(self) -> bool:
        return FEWEST_SEEDS <= len(self.seeds) < FULL_SEEDS

    @property
    def decided_before(self) -> bool:
        """Whether it was resolved at an earlier look that was planned, which stands, and is not any more."""
        includes_zero = self.interval is not None and self.interval[0] <= 0 <= self.interval[1]
        return includes_zero and self.planned and self.p_adjusted is not None and self.p_adjusted < LEVEL

    @property
    def resolved(self) -> bool:
        if self.p_adjusted is None or self.interval is None:
            return False
        excludes_zero = not self.interval[0] <= 0 <= self.interval[1]
        return self.p_adjusted < LEVEL and (excludes_zero or self.decided_before)


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """All interactions of a task's factors with one baseline."""

    task: str
    metric: str
    baseline: str
    level: float  # of all of them, and of those on other tasks, together
    factors: tuple[str, ...]  # that vary on this task
    family: int = 0  # interactions that p is adjusted for, on all tasks
    items: tuple[Interaction, ...]

    def shown_with(self, shown: Interactions) -> Interactions:
        """Those of these that filters show, corrected for all that there are; `shown` is of the runs that are left."""
        kept = {(item.factors, item.options) for item in shown.items}
        items = tuple(item for item in self.items if (item.factors, item.options) in kept)
        return replace(shown, items=items, family=self.family)

    @property
    def visible(self) -> bool:
        """Whether the design has all four combinations of any pair of options."""
        return bool(self.items)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of factors that have any interaction."""
        return list(dict.fromkeys(item.factors for item in self.items))

    def matrix(self, first: str, second: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """[options of `first`, options of `second`] the effects, NaN where there is none, and whether each is resolved.

        The baseline's options have no row or column. Empty if the two factors have no interaction.
        """
        found = {item.options: item for item in self.items if item.factors == (first, second)}
        found |= {item.options[::-1]: item for item in self.items if item.factors == (second, first)}
        rows, columns = (list(dict.fromkeys(options[place] for options in found)) for place in (0, 1))
        effects = pd.DataFrame(math.nan, index=rows, columns=columns)
        resolved = pd.DataFrame(False, index=rows, columns=columns)
        for (row, column), item in found.items():
            effects.loc[row, column] = math.nan if item.effect is None else item.effect
            resolved.loc[row, column] = item.resolved
        return effects, resolved


def all_interactions(
    runs: Runs, metrics: Mapping[str, str], baseline_variant: str, last_k: int = 1
) -> dict[str, Interactions]:
    """Those on every task, corrected together.

    Args:
        metrics: task -> the metric that is compared.
        last_k: as `interactions` takes it.
    """
    found = [_on_task(runs, task, metric, baseline_variant, last_k) for task, metric in metrics.items()]
    items = [item for each in found for item in each.items]
    adjusted = iter(_adjusted(items, looks_of(runs)))
    family = sum(item.estimate is not None for item in items)
    return {each.task: replace(each, items=tuple(next(adjusted) for _ in each.items), family=family) for each in found}


def interactions(runs: Runs, task: str, metric: str, baseline_variant: str, last_k: int = 1) -> Interactions:
    """Those of one task as if there were no other."""
    return all_interactions(runs, {task: metric}, baseline_variant, last_k)[task]


def _on_task(runs: Runs, task: str, metric: str, baseline_variant: str, last_k: int) -> Interactions:
    """Every pair of options on two factors, beside the options of `baseline_variant`; p is not adjusted yet.

    Args:
        last_k: the mean of so many last evaluations is compared; 1 for the final one.
    """
    looks = looks_of(runs)
    found = dimensions(runs, task)
    values = {variant: outcomes(runs, task, variant, metric, last_k) for variant in (found[0].options if found else ())}
    items = [
        _interaction(pair, options, cells, values, metric, looks)
        for pair in itertools.combinations(found, 2)
        for options, cells in cells_of(pair, found, _baseline_options(runs, pair, baseline_variant)).items()
    ]
    return Interactions(
        task=task,
        metric=metric,
        baseline=baseline_variant,
        level=LEVEL if looks.planned_several else looks.level(),  # planned looks keep it together
        factors=tuple(dimension.name for dimension in found),
        items=tuple(items),
    )


def _baseline_options(runs: Runs, pair: tuple[Dimension, Dimension], baseline: str) -> tuple[str, str]:
    """The baseline's own options, also where the baseline itself was not run on the task."""
    own = choices(runs, baseline)
    first, second = (dimension.options.get(baseline, own[dimension.name]) for dimension in pair)
    return first, second


def _interaction(
    pair: tuple[Dimension, Dimension],
    options: tuple[str, str],
    cells: list[Cells],
    values: dict[str, Cell],
    metric: str,
    looks: Looks,
) -> Interaction:
    variants = list(dict.fromkeys(variant for four in cells for variant in four))
    planned = sorted({seed for variant in variants for seed in values[variant]})
    missing = {seed: _missing(seed, variants, values, metric) for seed in planned}
    seeds = tuple(seed for seed in planned if not missing[seed])
    differences = tuple(_difference([[values[v][seed].value for v in four] for four in cells]) for seed in seeds)
    choice = choice_of(_sides(cells, values, seeds), metric, differences) or 0.0
    return Interaction(
        factors=(pair[0].name, pair[1].name),
        options=options,
        metric=metric,
        contexts=len(cells),
        seeds=seeds,
        differences=differences,
        missing=tuple(each for found in missing.values() for each in found),
        level=looks.until(seeds).level(),
        planned=looks.planned_several,
        choice=choice,
        estimate=paired(differences, choice) if len(differences) >= FEWEST_SEEDS else None,
    )


def _sides(cells: list[Cells], values: dict[str, Cell], seeds: Sequence[int]) -> list[tuple[float, list[Record]]]:
    """The runs of each variant, with what they are multiplied by."""
    return [
        (sign / len(cells), [values[variant][seed].record for seed in seeds])
        for four in cells
        for sign, variant in zip((1, -1, -1, 1), four, strict=True)
    ]


def _missing(seed: int, variants: list[str], values: dict[str, Cell], metric: str) -> list[Missing]:
    found = []
    for variant in variants:
        outcome = values[variant].get(seed)
        if outcome is None or not outcome.complete:
            found.append(Missing(variant, outcome.why(metric) if outcome else SeedNotRun(seed, by_baseline=False)))
    return found


def _difference(cells: list[list[float]]) -> float:
    """The mean over contexts of the difference of differences; 0 where it is only rounding."""
    mean = math.fsum(sign * value for four in cells for sign, value in zip((1, -1, -1, 1), four, strict=True))
    mean /= len(cells)
    return mean if abs(mean) > _ROUNDING * max(abs(value) for four in cells for value in four) else 0.0


def _adjusted(items: list[Interaction], looks: Looks) -> list[Interaction]:
    corrected = iter(holm([_p_value(item, looks) for item in items if item.estimate]))
    return [replace(item, p_adjusted=next(corrected)) if item.estimate else item for item in items]


def _p_value(item: Interaction, looks: Looks) -> float:
    if item.estimate and item.estimate.standard_error == 0 and item.metric in COUNTED:
        return float(item.estimate.effect == 0)
    made = dict(zip(item.seeds, item.differences, strict=True))
    return looks.p_value(made, lambda seen: paired(seen, item.choice).p_value)
