"""A second view of interactions: the type-II analysis of variance, with seed as a block.

One additive model of all finished runs of a task: a level for each seed (a seed's data and initial values are common to
all variants), a main effect for each factor, and for each two factors an interaction where the design has every
combination of their options. Type II: each term beside all others that do not contain it. Its sums of squares are the
usual ones where the design is balanced; where runs are missing they do not depend on the order of the factors.

It needs statsmodels: `pip install 'ablab[stats]'`.

Source: Fisher (1925), "Statistical Methods for Research Workers"; Yates (1934), "The analysis of multiple
classifications with unequal numbers in the different classes", the method of fitting constants.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablab.analysis.dimensions import Dimension, dimensions
from ablab.analysis.pairing import outcomes
from ablab.errors import UserError
from ablab.results.collect import Runs

_EXACT = 1e-24  # of the total sum of squares: a residual below it is rounding


@dataclass(frozen=True)
class Anova:
    """The analysis of variance of one task.

    `table` has a row per source, in the order seed, factors, interactions ("attention:activation"), residual, and the
    columns `source`, `sum_sq` (in the metric's unit, squared), `df`, `F`, `p` (not adjusted), `partial_eta_sq` (the
    source's share of its own and the residual sum of squares); the last three are NaN for the residual.
    """

    table: pd.DataFrame
    not_crossed: tuple[str, ...] = ()  # interactions without finished runs of every combination, not in the model
    confounded: tuple[str, ...] = ()  # interactions that the finished runs do not tell apart, not in the model
    left_out: int = 0  # runs without a finite value of the metric


def anova(runs: Runs, task: str, metric: str, last_k: int = 1) -> Anova:
    """The analysis of variance of `metric` over the finished runs of `task`.

    Raises:
        UserError: statsmodels is not installed, or the runs do not determine the main effects and the noise.
    """
    ols, anova_lm = _statsmodels()
    found = dimensions(runs, task)
    data = _data(runs, task, metric, found, last_k)
    _check(task, found, data)
    terms = {"C(seed)": "seed", **{f"C(f{place})": one.name for place, one in enumerate(found)}}
    main = ols(f"y ~ {' + '.join(terms)}", data)
    if _deficient(main):
        names = ", ".join(one.name for one in found)
        raise UserError(f"ANOVA of {task}: the finished runs do not tell the effects of {names} apart")
    crossed, not_crossed = _crossed(found, data)
    confounded: tuple[str, ...] = ()
    whole = ols(f"y ~ {' + '.join([*terms, *crossed])}", data)
    if crossed and (_deficient(whole) or not _spare(whole)):
        confounded, crossed, whole = tuple(crossed.values()), {}, main
    if not _spare(whole):
        raise UserError(f"ANOVA of {task}: no finished runs are left to estimate the noise from; give it more seeds")
    fit = whole.fit()
    if fit.ssr <= _EXACT * float(((data["y"] - data["y"].mean()) ** 2).sum()):
        raise UserError(
            f"ANOVA of {task}: {metric} has no noise at all, so that there is nothing to hold effects against"
        )
    table = _table(anova_lm(fit, typ=2), {**terms, **crossed})
    return Anova(table, not_crossed, confounded, data.attrs["planned"] - len(data))


def _statsmodels() -> tuple[Any, Any]:
    try:
        from statsmodels.formula.api import ols
        from statsmodels.stats.anova import anova_lm
    except ImportError as error:
        raise UserError("the ANOVA needs statsmodels: pip install 'ablab[stats]'") from error
    return ols, anova_lm


def _data(runs: Runs, task: str, metric: str, found: list[Dimension], last_k: int) -> pd.DataFrame:
    """A row per finished run: y, seed, f0, f1, ...; names of factors may hold what a formula would trip over."""
    values = {variant: outcomes(runs, task, variant, metric, last_k) for variant in (found[0].options if found else ())}
    rows = [
        {"y": outcome.value, "seed": seed, **{f"f{place}": one.options[variant] for place, one in enumerate(found)}}
        for variant, side in values.items()
        for seed, outcome in side.items()
        if outcome.complete
    ]
    table = pd.DataFrame(rows, columns=["y", "seed", *(f"f{place}" for place in range(len(found)))])
    table.attrs["planned"] = sum(map(len, values.values()))
    return table


def _check(task: str, found: list[Dimension], data: pd.DataFrame) -> None:
    if not found:
        raise UserError(f"ANOVA of {task}: no factor varies")
    for place, one in enumerate(found):
        if lacking := [option for option in one.distinct if option not in set(data[f"f{place}"])]:
            raise UserError(f"ANOVA of {task}: no run with {one.name}={lacking[0]} has finished")
    if data["seed"].nunique() < 2:
        raise UserError(f"ANOVA of {task}: one seed shows no noise; give it more seeds")


def _crossed(found: list[Dimension], data: pd.DataFrame) -> tuple[dict[str, str], tuple[str, ...]]:
    """The interactions, formula -> name, of factors that have every combination; the names of the others."""
    crossed, lacking = {}, []
    for (place, one), (other_place, other) in itertools.combinations(enumerate(found), 2):
        name = f"{one.name}:{other.name}"
        if len(data[[f"f{place}", f"f{other_place}"]].drop_duplicates()) == len(one.distinct) * len(other.distinct):
            crossed[f"C(f{place}):C(f{other_place})"] = name
        else:
            lacking.append(name)
    return crossed, tuple(lacking)


def _deficient(model: Any) -> bool:
    return bool(np.linalg.matrix_rank(model.exog) < model.exog.shape[1])


def _spare(model: Any) -> int:
    """Degrees of freedom left for the residual."""
    return int(model.exog.shape[0] - model.exog.shape[1])


def _table(found: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    values = {str(term): row for term, row in zip(found.index, found.to_dict("records"), strict=True)}
    residual = values["Residual"]["sum_sq"]
    rows = []
    for term, source in {**names, "Residual": "residual"}.items():
        row = values[term]
        share = float("nan") if source == "residual" else row["sum_sq"] / (row["sum_sq"] + residual)
        rows.append((source, row["sum_sq"], int(row["df"]), row["F"], row["PR(>F)"], share))
    return pd.DataFrame(rows, columns=["source", "sum_sq", "df", "F", "p", "partial_eta_sq"])
