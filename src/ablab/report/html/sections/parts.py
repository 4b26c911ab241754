"""Figures of the parts of an evaluation: a table of them, or a heatmap per variant where the parts form a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from ablab.analysis import oracle
from ablab.analysis.pairing import variants
from ablab.config.overrides import BETWEEN_OVERRIDES
from ablab.report.context import ReportContext
from ablab.report.formatting import metric_text
from ablab.report.html.heatmap import Heatmap, Scale, heatmap, scale_of
from ablab.report.html.sections.base import Block, Section, per_task
from ablab.report.rows import mean_sd, records_of
from ablab.results.collect import Runs
from ablab.results.record import Record

REACHABLE = "reachable, by theory"
_FEWEST = 2  # values of each of its two keys that make a grid of the parts

Ok = dict[str, list[Record]]  # variant -> its runs that ended well


@dataclass(frozen=True)
class Parts:
    """What the report shows of one figure: a table, or heatmaps on one scale and what holds for all of them."""

    figure: str  # "val_accuracy"
    table: pd.DataFrame | None
    grids: list[Heatmap]
    note: str  # under the heading


def parts(context: ReportContext) -> Section | None:
    """None where no run has figures of parts."""

    def blocks(task: str) -> list[Block]:
        return [
            Block(title=part.figure, text=part.note, table=part.table, grids=part.grids)
            for part in parts_of(context.runs, task)
        ]

    made = per_task(context, blocks)
    return Section("parts", "Parts of the evaluation", "", made) if made else None


def parts_of(runs: Runs, task: str) -> list[Parts]:
    """One for each figure of `task` that some run has of parts of an evaluation; the primary figure first."""
    records = {variant: records_of(runs, task, variant) for variant in variants(runs)}
    ok: Ok = {variant: [r for r in found if r.status == "ok"] for variant, found in records.items() if found}
    primary = runs.primary[task].name if task in runs.primary else ""
    known = oracle.known([record for found in records.values() for record in found], primary)
    named = dict.fromkeys(name for found in ok.values() for record in found for name in record.metrics)
    split = [(base, part) for base, slash, part in (name.partition("/") for name in named) if slash and "=" in part]
    found = []
    for base in sorted(dict.fromkeys(base for base, _ in split), key=lambda base: base != primary):
        parts = in_order([part for of, part in split if of == base])
        found.append(_shown(base, parts, ok, known if _without_split(base) == _without_split(primary) else {}))
    return found


def keys_of(part: str) -> dict[str, str]:
    """What sets a part apart: "length=64,depth=0.5" -> {"length": "64", "depth": "0.5"}."""
    return {key: value for key, _, value in (text.partition("=") for text in BETWEEN_OVERRIDES.split(part))}


def in_order(parts: list[str]) -> list[str]:
    """Parts by the values of their keys, key by key: numbers by size, names as they came first."""
    keys = {part: keys_of(part) for part in parts}
    columns = list(dict.fromkeys(key for own in keys.values() for key in own))
    order = {column: _ranks([own[column] for own in keys.values() if column in own]) for column in columns}
    return sorted(
        parts,
        key=lambda part: [order[column][keys[part][column]] if column in keys[part] else -1 for column in columns],
    )


def grid_of(parts: list[str]) -> pd.DataFrame | None:
    """[first key, second key] the parts of a full grid; None if these parts are none."""
    keys = [keys_of(part) for part in parts]
    names = list(keys[0])
    if len(names) != 2 or any(list(own) != names for own in keys):
        return None
    down, across = ([own[name] for own in keys] for name in names)
    rows, columns = list(_ranks(down)), list(_ranks(across))
    if min(len(rows), len(columns)) < _FEWEST or len(set(parts)) != len(rows) * len(columns):
        return None
    grid = pd.DataFrame(index=pd.Index(rows, name=names[0]), columns=pd.Index(columns, name=names[1]), dtype=object)
    for part, row, column in zip(parts, down, across, strict=True):
        grid.loc[row, column] = part
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


def _shown(base: str, parts: list[str], ok: Ok, known: dict[str, float]) -> Parts:
    reachable = {part: known[part] for part in parts if part in known}
    chance = known.get(oracle.CHANCE)
    said = "" if chance is None else f"Chance is {chance:.4g}."
    grid = grid_of(parts)
    if grid is not None:
        heatmaps, scale = _heatmaps(base, grid, ok, reachable)
        colours = f"Means over seeds. One colour scale for all: none at {scale.low:.4g}, deepest at {scale.high:.4g}."
        return Parts(base, None, heatmaps, f"{colours} {said}".strip())
    return Parts(base, _table(base, parts, ok, reachable, chance), [], "Mean ± sd over the runs that ended well.")


def _table(base: str, parts: list[str], ok: Ok, reachable: dict[str, float], chance: float | None) -> pd.DataFrame:
    """Variants as rows, parts as columns; then what theory gives, if it tells of parts."""
    rows = [
        {"variant": variant, **{part: metric_text(*mean_sd(_values(found, base, part))) for part in parts}}
        for variant, found in ok.items()
    ]
    if reachable:
        rows.append({"variant": REACHABLE, **{part: metric_text(reachable.get(part)) for part in parts}})
        if chance is not None:
            rows.append({"variant": "chance", **dict.fromkeys(parts, metric_text(chance))})
    return pd.DataFrame(rows)


def _heatmaps(base: str, grid: pd.DataFrame, ok: Ok, reachable: dict[str, float]) -> tuple[list[Heatmap], Scale]:
    """One per variant with a run that ended well, and one of what is reachable, if that is known."""
    means, captions = {}, {}
    for variant, found in ok.items():
        if found:
            cells = {part: mean_sd(_values(found, base, part)) for part in grid.to_numpy().ravel()}
            means[variant] = grid.map(lambda part, cells=cells: cells[part][0])
            captions[variant] = f"{variant}{_spread(len(found), [sd for _, sd in cells.values()])}"
    if reachable:
        means[REACHABLE] = grid.map(lambda part: reachable.get(part, math.nan))
    scale = scale_of(means.values())
    return [heatmap(captions.get(name, name), frame, scale) for name, frame in means.items()], scale


def _spread(runs: int, deviations: list[float]) -> str:
    """How much a cell may be trusted: ", 3 runs, sd of a cell up to 0.12"."""
    finite = [sd for sd in deviations if math.isfinite(sd)]
    return f", {runs} run{'' if runs == 1 else 's'}" + (f", sd of a cell up to {max(finite):.2g}" if finite else "")


def _values(records: list[Record], base: str, part: str) -> list[float]:
    return [record.metrics.get(f"{base}/{part}", math.nan) for record in records]
