"""For programs and spreadsheets: plain numbers."""

from __future__ import annotations

import math
from collections.abc import Hashable
from json import dumps
from statistics import median
from typing import Any

import pandas as pd

from ablab.analysis.comparison import Comparison, Comparisons
from ablab.analysis.earned import PairingEarned, saving_of
from ablab.analysis.placebos import Placebo
from ablab.analysis.power import detectable
from ablab.analysis.tuning_notes import OneStepAway, plain
from ablab.config import Node
from ablab.report.context import ReportContext
from ablab.report.formats.contents import By
from ablab.report.formats.scale import scale_nodes, scale_rows
from ablab.report.notes import notes_of
from ablab.report.placebos import name_of, outcome, placebo_node
from ablab.report.rows import unhealthy
from ablab.report.sentences import named, verdict_sentence
from ablab.report.study_notes import interval_lines, no_suite_text, study_notes

SCHEMA_VERSION = 2  # of the JSON


def csv(context: ReportContext, by: By | None = None) -> str:
    """One table; `row` says what a row is.

    "suite" and "variant": a variant on the suite and on a task, with the verdict's sentence; "placebo": an arm that
    cannot matter; "run": one that did not end well; "note": what holds for the comparison as a whole, as a sentence.
    """
    comparisons = context.comparisons
    kinds = {"suite": _suite_rows(context, by), "variant": _variant_rows(context, by)}
    said = {(item.task, item.variant): verdict_sentence(item) for item in (*comparisons.suite, *comparisons.items)}
    rows = [
        {"row": kind, **row, "sentence": said.get((row["task"], row["variant"]))}
        for kind, found in kinds.items()
        for row in found.to_dict("records")
    ]
    placebos = comparisons.placebos
    rows += [_placebo_row(item) for item in (*placebos.suite, *(placebos.items if by != "suite" else ()))]
    rows += scale_rows(context.over_scale)
    rows += [{"row": "run", **run} for run in unhealthy(context.run_rows).to_dict("records")]
    rows += [{"row": "note", "sentence": note} for note in _notes(comparisons)]
    columns = ["row", *dict.fromkeys(name for found in kinds.values() for name in found.columns)]
    table = pd.DataFrame(rows, columns=[*columns, "seed", "reason", "sentence"]).map(_no_formula)
    return str(table.rename(columns=_no_formula).to_csv(index=False, lineterminator="\n"))


def _placebos(comparisons: Comparisons) -> Node:
    """Those of a study that has some."""
    found = (*comparisons.placebos.suite, *comparisons.placebos.items)
    return {"placebos": [placebo_node(each) for each in found]} if found else {}


def _placebo_row(placebo: Placebo) -> dict[Hashable, Any]:
    item = placebo.comparison
    low, high = item.interval or (None, None)
    return {
        "row": "placebo",
        **{name: getattr(item, name) for name in ("task", "variant", "metric", "effect", "correlation")},
        "low": low,
        "high": high,
        "confidence": 1 - item.level,
        "p_adjusted": item.p_raw,
        "seeds": len(item.seeds),
        "sentence": f"{name_of(placebo.kind)}: {outcome(placebo)}",
    }


def _no_formula(cell: Any) -> Any:
    """A cell that a spreadsheet takes as text, where it is text: names in it may be anybody's."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def json(context: ReportContext, by: By | None = None) -> str:
    return dumps(document(context, by), indent=1, ensure_ascii=False, allow_nan=False)


def document(context: ReportContext, by: By | None = None) -> Node:
    """Every number of every comparison, the rows of the tables as numbers, and every run, as JSON can hold them."""
    comparisons = context.comparisons
    found = {
        "schema": SCHEMA_VERSION,
        "baseline": named(comparisons.baselines),
        "last_k": comparisons.last_k,
        "intervals": "simultaneous" if comparisons.unit and comparisons.unit.simultaneous else "single",
        "suite": [_item(item) for item in comparisons.suite] if by != "task" else [],
        "no_suite": no_suite_text(comparisons.no_suite) if comparisons.no_suite else None,
        **_placebos(comparisons),
        "comparisons": [_item(item) for item in comparisons.items] if by != "suite" else [],
        "notes": _notes(comparisons),
        "earned": _of_all(comparisons.earned),
        "pairing": {task: _earned(context, task) for task in context.tasks} if by != "suite" else {},
        "interim_analyses": [vars(look) for look in context.runs.interim_analyses],
        "suite_variants": _suite_rows(context, by).to_dict("records"),
        "variants": _variant_rows(context, by).to_dict("records"),
        "fronts": _fronts(context),
        **scale_nodes(context.over_scale),
        "runs": context.run_rows.to_dict("records"),
    }
    return {name: _plain(value) for name, value in found.items()}


def _fronts(context: ReportContext) -> Node:
    """Of each task and variant, what can be said of it and the front of each cost; the level of all of it together."""
    return {
        "level": context.ranking.level,
        "tasks": {task: context.fronts(task).to_dict("records") for task in context.tasks},
    }


def _notes(comparisons: Comparisons) -> list[str]:
    return interval_lines(comparisons) + study_notes(comparisons)


def _suite_rows(context: ReportContext, by: By | None) -> pd.DataFrame:
    return context.suite_rows if by != "task" else pd.DataFrame()


def _variant_rows(context: ReportContext, by: By | None) -> pd.DataFrame:
    return context.variant_rows if by != "suite" else pd.DataFrame()


def _item(item: Comparison) -> Node:
    return {
        "variant": item.variant,
        "baseline": item.baseline,
        "task": item.task,
        "metric": item.metric,
        "direction": item.direction,
        "seeds": item.seeds,
        "seeds_planned": item.planned,
        "differences": item.differences,
        "effect": item.effect,
        "interval": item.interval,
        "simultaneous_interval": item.simultaneous,
        "confidence": 1 - item.level,
        "p": item.p_raw,
        "p_adjusted": item.p_adjusted,
        "adjustment": item.adjustment,
        "median": median(item.differences) if item.differences else None,
        "p_shared_spread": item.second.p_shared if item.second else None,
        "p_signs": item.second.p_sign if item.second else None,
        "p_divergence": item.p_divergence,
        "correlation": item.correlation,
        **_tuning(item),
        "saving": saving_of(item),
        "detectable": detectable(item.estimate, item.share_level) if item.estimate else None,
        "margin": item.margin,
        "margin_declared": item.margin_declared if item.margin is not None else None,
        "equivalence_interval": item.equivalence_interval,
        "p_equivalence": item.p_equivalence,
        **({} if item.floor is None else {"floor": item.floor}),
        "diverged": item.diverged,
        "ended": item.ended,
        "baseline_diverged": item.baseline_diverged,
        "baseline_ended": item.baseline_ended,
        "verdict": item.verdict.value,
        "preliminary": item.preliminary,
        "sentence": verdict_sentence(item),
        "notes": notes_of(item),
    }


def _tuning(item: Comparison) -> Node:
    """What choosing settings adds to the standard error, and the effect a step of the grid away; where any was tuned.

    `one_step_away` has an entry for each number that was tuned.
    """
    away = [plain(note) for note in item.notes if isinstance(note, OneStepAway)]
    if item.choice is None and not away:
        return {}
    error = None if item.estimate is None else item.estimate.standard_error
    return {"standard_error": error, "error_of_choice": item.choice, "one_step_away": away}


def _of_all(earned: PairingEarned | None) -> Node | None:
    return {**vars(earned), "depths": [vars(each) for each in earned.depths]} if earned else None


def _earned(context: ReportContext, task: str) -> Node:
    """Variant -> step by step what its pairs have earned."""
    return {
        variant: [{**vars(point), "chaos": point.chaos and vars(point.chaos)} for point in points]
        for variant, points in context.earned(task).items()
    }


def _plain(value: Any) -> Any:
    """Convert to what JSON can hold: NaN and infinity become null, tuples lists, numpy's scalars Python's."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
