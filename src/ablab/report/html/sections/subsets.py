"""Metrics of subsets of an evaluation: a table of them, or a heatmap per variant where the subsets form a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from ablab.analysis import oracle
from ablab.analysis.pairing import counting, variants
from ablab.config.overrides import BETWEEN_OVERRIDES
from ablab.report.context import ReportContext
from ablab.report.formatting import metric_text
from ablab.report.html.blocks import Block, Heatmap, Scale, Section, heatmap, per_task, scale_of
from ablab.report.rows import mean_sd, records_of
from ablab.results.collect import Runs
from ablab.results.record import Record

REACHABLE = "reachable, by theory"
_FEWEST = 2  # values of each of its two keys that make a grid of the subsets

Ok = dict[str, list[Record]]  # variant -> its runs that ended well, one of each seed


@dataclass(frozen=True)
class Subsets:
    """One metric: a table, or heatmaps on one scale and what holds for all of them."""

    metric: str  # "val_accuracy"
    table: pd.DataFrame | None
    grids: list[Heatmap]
    note: str  # under the heading


def subsets(context: ReportContext) -> Section | None:
    """None where no run has metrics of subsets."""

    def blocks(task: str) -> list[Block]:
        return [
            Block(title=subset.metric, text=subset.note, table=subset.table, grids=subset.grids)
            for subset in subsets_of(context.runs, task)
        ]

    made = per_task(context, blocks)
    return Section("subsets", "Subsets of the evaluation", "", made) if made else None


def subsets_of(runs: Runs, task: str) -> list[Subsets]:
    """One for each metric of `task` that some run has of subsets of an evaluation; the primary metric first."""
    records = {variant: records_of(runs, task, variant) for variant in variants(runs)}
    ok: Ok = {variant: counting(runs, task, variant) for variant, found in records.items() if found}
    primary = runs.primary[task].name if task in runs.primary else ""
    known = oracle.known([record for found in records.values() for record in found], primary)
    named = dict.fromkeys(name for found in ok.values() for record in found for name in record.metrics)
    split = [
        (base, subset) for base, slash, subset in (name.partition("/") for name in named) if slash and "=" in subset
    ]
    found = []
    for base in sorted(dict.fromkeys(base for base, _ in split), key=lambda base: base != primary):
        subsets = in_order([subset for of, subset in split if of == base])
        found.append(_shown(base, subsets, ok, known if _without_split(base) == _without_split(primary) else {}))
    return found


def keys_of(subset: str) -> dict[str, str]:
    """The keys and values that set a subset apart: "length=64,depth=0.5" -> {"length": "64", "depth": "0.5"}."""
    return {key: value for key, _, value in (text.partition("=") for text in BETWEEN_OVERRIDES.split(subset))}


def in_order(subsets: list[str]) -> list[str]:
    """Parts by the values of their keys, key by key: numbers by size, names as they came first."""
    keys = {subset: keys_of(subset) for subset in subsets}
    columns = list(dict.fromkeys(key for own in keys.values() for key in own))
    order = {column: _ranks([own[column] for own in keys.values() if column in own]) for column in columns}
    return sorted(
        subsets,
        key=lambda subset: [
            order[column][keys[subset][column]] if column in keys[subset] else -1 for column in columns
        ],
    )


def grid_of(subsets: list[str]) -> pd.DataFrame | None:
    """[first key, second key] the subsets of a full grid; None if these subsets are none."""
    keys = [keys_of(subset) for subset in subsets]
    names = list(keys[0])
    if len(names) != 2 or any(list(own) != names for own in keys):
        return None
    down, across = ([own[name] for own in keys] for name in names)
    rows, columns = list(_ranks(down)), list(_ranks(across))
    if min(len(rows), len(columns)) < _FEWEST or len(set(subsets)) != len(rows) * len(columns):
        return None
    grid = pd.DataFrame(index=pd.Index(rows, name=names[0]), columns=pd.Index(columns, name=names[1]), dtype=object)
    for subset, row, column in zip(subsets, down, across, strict=True):
        grid.loc[row, column] = subset
    return grid


def _ranks(values: list[str]) -> dict[str, int]:
    """Each different value's place: by size if all are numbers, else by first appearance."""
    different = list(dict.fromkeys(values))
    numbers = [_number(value) for value in different]
    if not any(math.isnan(number) for number in numbers):
        different = [value for _, value in sorted(zip(numbers, different, strict=True))]
    return {value: place for place, value in enumerate(different)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _without_split(metric: str) -> str:
    """ "accuracy" of "val_accuracy" and "test_accuracy": what is known of the one holds for the other."""
    return metric.partition("_")[2]


def _shown(base: str, subsets: list[str], ok: Ok, known: dict[str, float]) -> Subsets:
    reachable = {subset: known[subset] for subset in subsets if subset in known}
    chance = known.get(oracle.CHANCE)
    said = "" if chance is None else f"Chance is {chance:.4g}."
    grid = grid_of(subsets)
    if grid is not None:
        heatmaps, scale = _heatmaps(base, grid, ok, reachable)
        colours = f"Means over seeds. One colour scale for all: none at {scale.low:.4g}, deepest at {scale.high:.4g}."
        return Subsets(base, None, heatmaps, f"{colours} {said}".strip())
    return Subsets(base, _table(base, subsets, ok, reachable, chance), [], "Mean ± sd over the runs that ended well.")


def _table(base: str, subsets: list[str], ok: Ok, reachable: dict[str, float], chance: float | None) -> pd.DataFrame:
    """Variants as rows, subsets as columns; then what theory gives, if it tells of subsets."""
    rows = [
        {"variant": variant, **{subset: metric_text(*mean_sd(_values(found, base, subset))) for subset in subsets}}
        for variant, found in ok.items()
    ]
    if reachable:
        rows.append({"variant": REACHABLE, **{subset: metric_text(reachable.get(subset)) for subset in subsets}})
        if chance is not None:
            rows.append({"variant": "chance", **dict.fromkeys(subsets, metric_text(chance))})
    return pd.DataFrame(rows)


def _heatmaps(base: str, grid: pd.DataFrame, ok: Ok, reachable: dict[str, float]) -> tuple[list[Heatmap], Scale]:
    """One per variant with a run that ended well, and one of what is reachable, if that is known."""
    means, captions = {}, {}
    for variant, found in ok.items():
        if found:
            cells = {subset: mean_sd(_values(found, base, subset)) for subset in grid.to_numpy().ravel()}
            means[variant] = grid.map(lambda subset, cells=cells: cells[subset][0])
            captions[variant] = f"{variant}{_spread(len(found), [sd for _, sd in cells.values()])}"
    if reachable:
        means[REACHABLE] = grid.map(lambda subset: reachable.get(subset, math.nan))
    scale = scale_of(means.values())
    return [heatmap(captions.get(name, name), frame, scale) for name, frame in means.items()], scale


def _spread(runs: int, deviations: list[float]) -> str:
    """How much a cell may be trusted: ", 3 runs, sd of a cell up to 0.12"."""
    finite = [sd for sd in deviations if math.isfinite(sd)]
    return f", {runs} run{'' if runs == 1 else 's'}" + (f", sd of a cell up to {max(finite):.2g}" if finite else "")


def _values(records: list[Record], base: str, subset: str) -> list[float]:
    return [record.metrics.get(f"{base}/{subset}", math.nan) for record in records]
