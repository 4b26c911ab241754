"""Placebos as people are shown them: a table of their own, apart from what is compared."""

from __future__ import annotations

import pandas as pd

from ablab.analysis.placebos import Placebo
from ablab.config import Node
from ablab.report.context import ReportContext
from ablab.report.formatting import MISSING, confidence, decimals_for, number, p_value, plural, share

NAMES = {"draw": "one unused draw", "order": "another order of sums", "nudge": "one number off by rounding"}


def placebo_table(context: ReportContext, part: str) -> pd.DataFrame:
    """The placebos on a task, or on the suite, as text; empty where there are none."""
    found = context.comparisons.placebos.of(part)
    several = len({item.comparison.baseline for item in found}) > 1
    return pd.DataFrame([_row(item, context.comparisons.level, several) for item in found])


def _row(placebo: Placebo, level: float, several: bool) -> dict[str, str]:
    item = placebo.comparison
    low, high = item.interval or (None, None)
    half = (high - low) / 2 if low is not None and high is not None else 0.0
    digits = decimals_for(half or item.effect or 0.0)
    shown = {value: number(value, digits, signed=True) for value in (low, high, item.effect) if value is not None}
    return {
        "placebo": name_of(placebo.kind),
        **({"of": item.baseline} if several else {}),
        "came out": outcome(placebo),
        "effect": MISSING if item.effect is None else shown[item.effect],
        f"{confidence(level)} CI": MISSING if low is None or high is None else f"{shown[low]} to {shown[high]}",
        "p": MISSING if item.p_raw is None else p_value(item.p_raw).removeprefix("= "),
        "r": MISSING if item.correlation is None else share(item.correlation),
        "seeds": str(len(item.seeds)),
    }


def name_of(kind: str) -> str:
    return NAMES.get(kind, kind)


def outcome(placebo: Placebo) -> str:
    """What its comparison came to, which is no finding."""
    if placebo.equal:
        return "equal to the last bit"
    if placebo.resolved:
        return "resolved, by chance"
    if placebo.comparison.diverged:
        return f"{placebo.comparison.diverged}/{placebo.comparison.ended} diverged"
    return "not resolved" if placebo.counts else f"{plural(len(placebo.comparison.seeds), 'seed')} only"


def placebo_node(placebo: Placebo) -> Node:
    """The numbers of one, for programs."""
    item = placebo.comparison
    return {
        "kind": placebo.kind,
        "variant": item.variant,
        "of": item.baseline,
        "task": item.task,
        "metric": item.metric,
        "seeds": item.seeds,
        "differences": item.differences,
        "effect": item.effect,
        "interval": item.interval,
        "confidence": 1 - item.level,
        "p": item.p_raw,
        "correlation": item.correlation,
        "resolved": placebo.resolved,
        "equal": placebo.equal,
    }
