"""What varies between the variants of a task: factors, the settings of an option taken together with it."""

from __future__ import annotations

from dataclasses import dataclass

from ablab.results.collect import Runs


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
