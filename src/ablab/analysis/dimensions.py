"""What varies between the variants of a task: factors, the settings of an option taken together with it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from ablab.results.collect import Runs

Cells = tuple[str, str, str, str]  # the variants [a, b], [a0, b], [a, b0], [a0, b0]


@dataclass(frozen=True)
class Dimension:
    """One thing that varies between the variants of a task."""

    name: str  # of the factor
    options: dict[str, str]  # variant -> option, in the order of the plan

    @property
    def distinct(self) -> list[str]:
        """The options in the order of the plan."""
        return list(dict.fromkeys(self.options.values()))


def dimensions(runs: Runs, task: str) -> list[Dimension]:
    """The dimensions of `task`, in the order of `runs.factors`; none that has one option only."""
    rows = runs.table[runs.table["task"] == task].drop_duplicates("variant")
    values = {factor: dict(zip(rows["variant"], map(str, rows[factor]), strict=True)) for factor in runs.factors}
    inner = {factor: axis for factor in runs.factors if (axis := _axis_of(factor, values))}
    found = []
    for factor in runs.factors:
        if factor in inner:
            continue
        settings = [name for name, axis in inner.items() if axis == factor]
        dimension = Dimension(factor, _options(values[factor], {name: values[name] for name in settings}))
        if len(dimension.distinct) > 1:
            found.append(dimension)
    return found


def _axis_of(factor: str, values: dict[str, dict[str, str]]) -> str | None:
    """The axis that the factor is a setting of, if it is of some options only."""
    axis, dot, _ = factor.partition(".")
    return axis if dot and axis in values and "" in values[factor].values() else None


def _options(axis: dict[str, str], settings: dict[str, dict[str, str]]) -> dict[str, str]:
    """variant -> the option, with its own settings where they differ between variants that have the option."""
    named: dict[str, str] = {}
    for variant, option in axis.items():
        same = [other for other, chosen in axis.items() if chosen == option]
        differing = [name for name, value in settings.items() if len({value[other] for other in same}) > 1]
        named[variant] = ",".join([option, *(f"{name}={settings[name][variant]}" for name in differing)])
    return named


def cells_of(
    pair: tuple[Dimension, Dimension], all_dimensions: list[Dimension], base: tuple[str, str]
) -> dict[tuple[str, str], list[Cells]]:
    """options -> the four variants of each context that has all four; no options that have no context."""
    others = [dimension for dimension in all_dimensions if dimension not in pair]
    contexts: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
    for variant in pair[0].options:
        context = tuple(dimension.options[variant] for dimension in others)
        contexts.setdefault(context, {}).setdefault((pair[0].options[variant], pair[1].options[variant]), variant)
    found: dict[tuple[str, str], list[Cells]] = {}
    for options in itertools.product(*(dimension.distinct for dimension in pair)):
        (a, b), (a0, b0) = options, base
        if a == a0 or b == b0:
            continue
        corners = [(a, b), (a0, b), (a, b0), (a0, b0)]
        whole = [at for at in contexts.values() if all(corner in at for corner in corners)]
        if whole:
            found[a, b] = [(at[a, b], at[a0, b], at[a, b0], at[a0, b0]) for at in whole]
    return found
