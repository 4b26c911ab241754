"""The tables as people read them, in every format. No best value is set in bold: only a resolved verdict is marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ablab.analysis.study_notes import IntervalUnit
from ablab.analysis.verdicts import RESOLVED
from ablab.report.context import ReportContext
from ablab.report.formatting import (
    MISSING,
    confidence,
    count,
    decimals_for,
    duration,
    memory,
    metric_text,
    number,
    p_value,
    share,
)
from ablab.report.rows import IN_USE, Row
from ablab.report.sentences import interval_name

_TOGETHER = "simultaneous"


def quality_table(context: ReportContext, part: str, both: bool = False) -> pd.DataFrame:
    """The quality of the variants on one task, or on the suite, as text: metric, effect, interval, p, r, verdict.

    Args:
        both: show the intervals that hold together, too, beside those of one comparison alone.
    """
    found, unit = context.rows(part), context.comparisons.unit
    metric = found[0]["metric"]
    chosen = bool(unit and unit.simultaneous)
    both = both and not chosen and bool(unit and unit.comparisons > unit.together and unit.comparisons > 1)
    rows = []
    for row in found:
        low, high = _number(row["low"]), _number(row["high"])
        effect, p, r = (_number(row[key]) for key in ("effect", "p_adjusted", "correlation"))
        half = (high - low) / 2 if low is not None and high is not None else 0.0
        digits = decimals_for(half or effect or 0.0)
        wide = _range(_number(row["simultaneous_low"]), _number(row["simultaneous_high"]), digits)
        rows.append(
            {
                "variant": row["variant"],
                "verdict": _mark(row["verdict"], bool(row["preliminary"])),  # second: a narrow screen shows it, too
                metric or "metric": metric_text(row["mean"], row["sd"]),
                "effect": MISSING if effect is None else number(effect, digits, signed=True),
                interval_column(context): _range(low, high, digits) + _at_look(row, unit),
                **({f"{_TOGETHER} CI": wide} if both else {}),
                "adj. p": MISSING if p is None else p_value(p).removeprefix("= "),
                "r": MISSING if r is None else share(r),
                "seeds": MISSING if _number(row["seeds"]) is None else str(int(row["seeds"])),
                "runs": row["status"],
            }
        )
    return pd.DataFrame(rows)


def interval_column(context: ReportContext) -> str:
    """What the intervals of `quality_table` stand below: "95% CI", or "simultaneous 95% CI" where all hold together."""
    unit, name = context.comparisons.unit, interval_name(context.comparisons)
    return f"{_TOGETHER} {name}" if unit and unit.simultaneous else name


def _range(low: float | None, high: float | None, digits: int) -> str:
    if low is None or high is None:
        return MISSING
    return f"{number(low, digits, signed=True)} to {number(high, digits, signed=True)}"


def _at_look(row: Row, unit: IntervalUnit | None) -> str:
    """The confidence of a row's interval, where rows have several: " (99.64%)", else ""."""
    own = _number(row["confidence"])
    return f" ({confidence(1 - own)})" if unit and unit.level is None and own is not None else ""


def cost_table(context: ReportContext, part: str) -> pd.DataFrame:
    """The cost of the variants on one task, or on the suite, as text: means over the runs that ended well."""
    rows = context.rows(part)
    shown = {
        "parameters": ("parameters", count),
        **({"active_parameters": ("active", count)} if _some_are_inactive(rows) else {}),
        "flops_total": ("FLOPs", count),
        "tokens": ("tokens", count),
        "tokens_per_second": ("tokens/s", count),
        "wall_time_s": ("wall time", duration),
        "peak_memory_bytes": ("peak memory", memory),
    }
    return pd.DataFrame(
        [
            {"variant": row["variant"], **{name: text(_number(row[key])) for key, (name, text) in shown.items()}}
            for row in rows
        ]
    )


def inference_table(context: ReportContext, part: str) -> pd.DataFrame:
    """What the trained variants cost in use, as text: of the cache and of a token, by the length of its sequence.

    Empty where they all cost the same.
    """
    rows = context.rows(part)
    if not any(_differ(rows, cost) for cost in IN_USE):
        return pd.DataFrame()
    return pd.DataFrame(
        [{"variant": row["variant"], **{_title(cost): _in_use(row, cost) for cost in IN_USE}} for row in rows]
    )


def _differ(rows: Sequence[Row], cost: str) -> bool:
    return len({_number(row[cost]) for row in rows}) > 1


def _title(cost: str) -> str:
    """ "cache at 8k", "token at 8k", "prompt"."""
    kind, *_, length = cost.split("_")
    return {"cache": f"cache at {length}", "decode": f"token at {length}", "prefill": "prompt"}[kind]


def _in_use(row: Row, cost: str) -> str:
    text = memory if cost.startswith("cache") else count
    return text(_number(row[cost]))


def _some_are_inactive(rows: Sequence[Row]) -> bool:
    """Whether a token passes some variant's parameters by, so that their number is not what it costs."""
    return any(_number(row["active_parameters"]) not in (None, _number(row["parameters"])) for row in rows)


def _mark(verdict: str, preliminary: bool) -> str:
    """Only what is resolved is marked."""
    marked = f"* {verdict}" if verdict in RESOLVED else verdict
    return f"{marked} (preliminary)" if preliminary else marked


def _number(value: Any) -> float | None:
    """A cell as a number, None where it is missing (pandas turns None into NaN)."""
    return None if value is None or pd.isna(value) else float(value)
