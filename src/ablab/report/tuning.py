"""What tuning says beside a verdict, in sentences."""

from __future__ import annotations

from typing import Any

from ablab.analysis.choice_noise import COSTS
from ablab.analysis.comparison import Comparison
from ablab.analysis.tuning_notes import Away, Chosen, OneStepAway, TunedSettings
from ablab.analysis.verdicts import RESOLVED
from ablab.config.tune import RATE, said
from ablab.report.formatting import decimals_for, number, plural


def settings_text(note: TunedSettings, item: Comparison) -> str:
    """Say at which settings the two trained, how they were tuned, and what that adds to the interval."""
    return f"{_trained(note)}{_edges(note)}{_budgets(note)}.{_extended(note)}{_noise(note, item)}"


def _trained(note: TunedSettings) -> str:
    rates = all([key for key, _ in chosen] == [RATE] for chosen in (*note.own, *note.baseline))
    if not note.own or not note.baseline:
        who, what = "this variant" if note.own else "the baseline", "learning rate" if rates else "settings"
        return f"Only {who} had its {what} tuned"
    grid = "tuned on the same grid" if note.same_grid else "tuned on different grids"
    if note.own == note.baseline and len(note.own) == 1:
        return f"Both at {'the learning rate ' if rates else ''}{_all(note.own, rates)}, {grid}"
    different = f"AT DIFFERENT {'RATES' if rates else 'SETTINGS'}"
    return f"{different}  {_all(note.own, rates)} against {_all(note.baseline, rates)}, {grid}"


def _all(found: tuple[Chosen, ...], rates: bool) -> str:
    """ "0.003" where rates alone were tuned; of seeds that were not all tuned together, "0.003 and 0.01"."""
    return " and ".join(_chosen(each, rates) for each in found)


def _chosen(chosen: Chosen, rates: bool) -> str:
    if rates:
        return setting(chosen[0][1])
    return ",".join(f"{key}={setting(value)}" for key, value in chosen)


def setting(value: Any) -> str:
    """A chosen value as people read it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _edges(note: TunedSettings) -> str:
    return "".join(
        f"; {'' if key == RATE else f'{key}='}{setting(value)} is the {edge} of the grid: widen {said(key)}"
        for key, value, edge in note.edges
    )


def _budgets(note: TunedSettings) -> str:
    """Who was tried at more points, and why."""
    if note.points[0] == note.points[1] or not all(note.points):
        return ""
    sides = ("this variant", "the baseline")
    why = [f"{who} has no {' or '.join(keys)}" for who, keys in zip(sides, note.lacking, strict=True) if keys]
    counts = " against ".join(f"{count:,}" for count in note.points)
    since = f", since {' and '.join(why)}" if why else ""
    return f"; NOT THE SAME BUDGET OF TUNING: {counts} points{since}"


def _extended(note: TunedSettings) -> str:
    found = [
        f"{said(key)} was extended by {' and '.join(_steps(below, above))} for all variants"
        for key, below, above in note.extended
    ]
    return "".join(f" {each}." for each in found)


def _steps(below: int, above: int) -> list[str]:
    return [f"{plural(count, 'step')} {where}" for count, where in ((below, "below"), (above, "above")) if count]


def _noise(note: TunedSettings, item: Comparison) -> str:
    """How much of the interval comes of choosing."""
    if item.estimate is None:
        return ""
    if item.choice is None:
        why = f"the tuning runs that are kept do not tell {item.metric}" if note.known else "no tuning run is kept"
        return "" if item.metric in COSTS else f" What choosing adds to the noise is not in the interval: {why}."
    error = item.estimate.standard_error
    digits = decimals_for(error) if error else 2
    shorter = f" (by tuning runs of {note.max_steps:,} steps)" if note.max_steps else ""
    return (
        f" The interval holds what choosing adds{shorter}: the standard error is {number(error, digits)} with it, "
        f"{number((error**2 - item.choice**2) ** 0.5 if error > item.choice else 0.0, digits)} without."
    )


def away_text(note: OneStepAway, item: Comparison) -> str:
    """Say what the effect would be a step of the grid to either side, and whether the verdict would turn around."""
    effects = [note.here, *(each.effect for each in note.away if each.effect is not None)]
    digits = max(decimals_for(effect) if effect else 2 for effect in effects)
    parts = [_away(each, digits) for each in note.away]
    turned = note.reversed_by(item.effect or 0.0) if item.verdict in RESOLVED else ()
    says = "".join(f" THE SIGN CHANGES one step {_where(each)}." for each in turned)
    what = "rate" if note.key == RATE else note.key
    here = f"{number(note.here, digits, signed=True)} at the {what} of each"
    return f"ONE STEP AWAY  by the tuning runs ({plural(note.seeds, 'seed')}): {here}, {', '.join(parts)}.{says}"


def _where(away: Away) -> str:
    return "lower" if away.step < 0 else "higher"


def _away(away: Away, digits: int) -> str:
    found = away.why if away.effect is None else number(away.effect, digits, signed=True)
    values = [value for value in (away.own, away.baseline) if value is not None]
    at = f" ({' against '.join(map(setting, values))})" if values and away.effect is not None else ""
    return f"{found} one step {_where(away)}{at}"
