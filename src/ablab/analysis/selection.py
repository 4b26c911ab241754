"""Which runs are compared, and which comparisons are shown: filters in Hydra's override syntax, "attention=lsh,mla".

Filters on `seed` and `study` restrict the runs: whatever is said afterwards rests on those that are left. All others,
on a factor, the task, the variant or a setting, choose among the comparisons when all of them have been made: the
baseline stays, and so does the correction for every comparison of the study, since choosing after looking must not make
a p value smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from ablab.analysis.comparison import Comparisons, ComparisonSettings, compare
from ablab.analysis.study_notes import NoSuite, RestrictedRuns, ShownComparisons
from ablab.config.nearest import nearest
from ablab.config.overrides import not_too_many, same_value
from ablab.errors import UserError
from ablab.results.collect import Runs, tabulate
from ablab.results.factors import Settings, settings_of, text_of

_NAMES = ("study", "task", "variant")  # keys whose values are names, never numbers
OF_RUNS = ("seed", "study")  # keys that restrict what is compared


@dataclass(frozen=True)
class Filter:
    """Runs with one of some values of a setting."""

    text: str  # as it was written
    key: str
    values: tuple[str, ...]


def parse_filters(words: Sequence[str]) -> list[Filter]:
    """Filters as Hydra's parser reads overrides: "a=x", "a=x,y", "a=range(0,5)", "a='with space'".

    Raises:
        UserError: not of that form.
    """
    # Only who filters pays for the parser.
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    filters = []
    for word in words:
        try:
            override = parser.parse_override(word)
            if override.type is not OverrideType.CHANGE:
                raise UserError(f"filter {word}: write it as key=value or key=value,value")
            swept = override.sweep_iterator(_itself) if override.is_sweep_override() else [override.value()]
            values = not_too_many(swept, f"filter {word}")
            filters.append(Filter(word, override.key_or_group, tuple(_plain(value) for value in values)))
        except HydraException as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"filter {word}: not in Hydra's override syntax ({reason}); "
                "quote what is no plain word, as in task.path='a b.txt'"
            ) from error
    return filters


def compare_selected(
    runs: Runs, filters: Sequence[str] = (), **settings: Unpack[ComparisonSettings]
) -> tuple[Comparisons, Runs]:
    """Compare what the filters leave; the comparisons that they show, and the runs of these.

    Args:
        settings: as `compare` takes them.

    Raises:
        UserError: as `compare` does; or a filter that cannot be read, or that no run fits.
    """
    return compare_and_select(runs, filters, **settings)[0]


def compare_and_select(
    runs: Runs, filters: Sequence[str] = (), **settings: Unpack[ComparisonSettings]
) -> tuple[tuple[Comparisons, Runs], tuple[Comparisons, Runs]]:
    """As `compare_selected`; and all comparisons that were made, and their runs, over which families of claims go."""
    wanted = parse_filters(filters)
    for each in wanted:
        _check(each, runs)
    left = _restrict(runs, [each for each in wanted if each.key in OF_RUNS])
    every = compare(left, **settings)
    comparisons, shown = _show(every, left, [each for each in wanted if each.key not in OF_RUNS])
    if left is not runs:
        comparisons = replace(comparisons, notes=(*comparisons.notes, _restriction(wanted, left, runs)))
    return (comparisons, shown), (every, left)


def _restrict(runs: Runs, filters: Sequence[Filter]) -> Runs:
    if not filters:
        return runs
    runs = runs.every
    places = _fitting(runs, filters)
    found = [(Path(runs.paths[place]), runs.records[place]) for place in places]
    return replace(tabulate(found), interim_analyses=runs.interim_analyses)


def _restriction(filters: Sequence[Filter], left: Runs, runs: Runs) -> RestrictedRuns:
    named = " ".join(each.text for each in filters if each.key in OF_RUNS)
    return RestrictedRuns(named, len(left.every.records), len(runs.every.records))


def _show(comparisons: Comparisons, runs: Runs, filters: Sequence[Filter]) -> tuple[Comparisons, Runs]:
    """The comparisons that fit, with the baseline and with all that was found when there were more."""
    if not filters:
        return comparisons, runs
    fitting = set(_fitting(runs, filters))
    cells = {cell for cell, places in runs.places.items() if fitting & set(places)}
    tasks = [task for task in runs.tasks if any(task == on for on, _ in cells)]
    bases = {comparisons.baselines.of(variant) for _, variant in cells}
    kept = cells | {(task, base) for task in tasks for base in bases}
    items = tuple(item for item in comparisons.items if (item.task, item.variant) in cells)
    suite = tuple(item for item in comparisons.suite if item.variant in {variant for _, variant in cells})
    named = " ".join(each.text for each in filters)
    family = len(comparisons.items) + len(comparisons.suite)
    notes = [*comparisons.notes, ShownComparisons(named, len(items), len(comparisons.items), family)]
    no_suite = comparisons.no_suite
    if comparisons.suite and len(tasks) < len(runs.tasks):
        suite, no_suite = (), NoSuite("filtered", filters=named, left=(len(tasks), len(runs.tasks)))
    elif comparisons.suite:
        name = comparisons.suite[0].task
        notes.append(ShownComparisons(named, len(suite), len(comparisons.suite), family, name))
    metrics = {task: comparisons.metrics[task] for task in tasks}
    shown = replace(
        comparisons,
        items=items,
        suite=suite,
        no_suite=no_suite,
        metrics=metrics,
        notes=tuple(notes),
        placebos=comparisons.placebos.on(tasks),
    )
    return shown, runs.at(sorted(place for cell in kept for place in runs.places.get(cell, ())))


def _fitting(runs: Runs, filters: Sequence[Filter]) -> list[int]:
    """The places of the runs that fit every filter, of which there must be some."""
    columns = [(each, _column(runs, each.key)) for each in filters]
    places = [
        place
        for place in range(len(runs.records))
        if all(any(_fits(each.key, value, column[place]) for value in each.values) for each, column in columns)
    ]
    if not places:
        raise UserError(f"{' '.join(each.text for each in filters)}: no run has all of this together")
    return places


def _check(wanted: Filter, runs: Runs) -> None:
    """Raises UserError where no run has the key or one of the values: a slip of the pen must not select less."""
    column = _column(runs, wanted.key)
    present = [text for text in dict.fromkeys(column) if text]
    if not present:
        known = ["task", "variant", *OF_RUNS, *runs.factors]
        keys = [*known, *{key for record, setting in _settings(runs) for key in (*record.axes, *setting)}]
        raise UserError(f"filter {wanted.text}: no run has a setting {wanted.key}{nearest(wanted.key, keys, known)}")
    for value in wanted.values:
        if not any(_fits(wanted.key, value, text) for text in present):
            said = f"{wanted.key}={value}"
            raise UserError(f"filter {wanted.text}: no run has {said}{nearest(value, present)}")


def _column(runs: Runs, key: str) -> list[str]:
    """The value that each run has for a key, as text, "" where it has nothing."""
    if key in ("seed", "study", "task", "variant"):
        return [str(value) for value in runs.table[key].tolist()]
    return [record.axes.get(key) or text_of(setting.get(key, "")) for record, setting in _settings(runs)]


def _settings(runs: Runs) -> list[tuple[Any, Settings]]:
    return list(zip(runs.records, settings_of(runs.records), strict=True))


def _fits(key: str, wanted: str, text: str) -> bool:
    """Equal, numbers as numbers; a task also by its name alone, "recall" of "recall,task.length=32"."""
    if key == "task" and text.partition(",")[0] == wanted:
        return True
    return wanted == text if key in _NAMES else same_value(wanted, text)


def _plain(value: Any) -> str:
    """An element of an override as the table of runs writes it."""
    return text_of(_unquoted(value))


def _unquoted(value: Any) -> Any:
    if isinstance(value, list):
        return [_unquoted(each) for each in value]
    if isinstance(value, dict):
        return {key: _unquoted(each) for key, each in value.items()}
    return value.text if hasattr(value, "quote") else value


def _itself(value: Any) -> Any:
    return value
