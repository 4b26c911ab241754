"""Ladders for programs and spreadsheets: every number of what is said over scale."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from ablab.analysis.over_scale.curve import Curve
from ablab.analysis.over_scale.forecast import COVERAGE
from ablab.analysis.over_scale.gain import Gain
from ablab.analysis.over_scale.study import HeldOut, LadderFindings, OverScale, coverage
from ablab.analysis.over_scale.verdicts import ScaleVerdict
from ablab.config import Node
from ablab.report.over_scale import TIMES, scale_lines, scale_sentence


def scale_nodes(found: Sequence[LadderFindings]) -> Node:
    """Those of a study with ladders."""
    if not found:
        return {}
    covered = coverage(found)
    return {
        "over_scale": {
            "times": TIMES,
            "confidence": COVERAGE,
            "ladders": [_ladder(each) for each in found],
            "held_out": covered
            and {"inside": covered.inside, "count": covered.count, "interval": list(covered.interval)},
            "lines": scale_lines(found),
        }
    }


def _ladder(found: LadderFindings) -> Node:
    ladder = found.ladder
    return {
        "task": ladder.task,
        "metric": ladder.metric,
        "direction": ladder.direction,
        "baseline": ladder.baseline,
        "sizes": [vars(rung) for rung in ladder.rungs],
        "law": _law(found.law),
        "variants": [_item(item) for item in found.items],
        "points": [vars(point) for point in ladder.points],
    }


def _law(law: Curve | None) -> Node | None:
    return None if law is None else {**vars(law), "identified": law.identified}


def _item(item: OverScale) -> Node:
    climb, gains, seen = item.climb, item.gains, item.forecast
    return {
        "variant": item.variant,
        "label": climb.label,
        "verdict": item.verdict.value,
        "sentence": scale_sentence(item),
        "p_sign": item.p_sign,
        "p_fade": item.p_fade,
        "effect_first": None if seen is None else float(seen.effects[0]),
        "effect_now": None if seen is None else seen.now,
        "effect_then": None if seen is None else seen.then,
        "interval": item.interval,
        "missing": item.missing and vars(item.missing),
        "sizes": [
            {
                "size": rung.name,
                "effect": size.effect,
                "interval": size.interval,
                "differences": size.differences,
                "flops_over_baseline": cost,
                "gain": _gain(gains.at[place]) if gains else None,
                "net_gain": _gain(gains.net[place]) if gains else None,
            }
            for place, (rung, size, cost) in enumerate(zip(climb.rungs, climb.items, climb.cost, strict=True))
        ],
        "gain_per_tenfold": _gain(gains.slope) if gains else None,
        "law": _law(item.law),
        "held_out": _held_out(item.held_out),
    }


def _gain(gain: Gain | None) -> Node | None:
    return None if gain is None else dict(vars(gain))


def _held_out(test: HeldOut | None) -> Node | None:
    return None if test is None else {**vars(test), "inside": test.inside}


def scale_rows(found: Sequence[LadderFindings]) -> list[dict[Hashable, Any]]:
    """A row of a table for each variant on each ladder, about the effect at ten times the compute."""
    return [_row(item) for each in found for item in each.items]


def _row(item: OverScale) -> dict[Hashable, Any]:
    low, high = item.interval or (None, None)
    return {
        "row": "over_scale",
        "task": item.task,
        "variant": item.variant,
        "metric": item.metric,
        "verdict": item.verdict.value,
        "effect": item.forecast.then if item.forecast else None,
        "low": low,
        "high": high,
        "confidence": COVERAGE if item.forecast else None,
        "p_adjusted": item.p_fade if item.verdict is ScaleVerdict.FADES else item.p_sign,
        "seeds": min((len(size.differences) for size in item.climb.items), default=0),
        "sentence": scale_sentence(item),
    }
