"""What a ladder says beyond its sizes, in sentences and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from ablab.analysis.estimates import FEWEST_SEEDS, LEVEL
from ablab.analysis.over_scale.curve import Curve
from ablab.analysis.over_scale.forecast import COVERAGE
from ablab.analysis.over_scale.gain import Gain
from ablab.analysis.over_scale.study import HeldOut, LadderFindings, OverScale, coverage
from ablab.analysis.over_scale.verdicts import FEWEST_RUNGS, Missing, ScaleVerdict
from ablab.report.formatting import MISSING, confidence, count, decimals_for, metric_text, number, p_value, plural

TIMES = 10  # the largest compute: where verdicts are about
_INTERVAL = f"{COVERAGE:.0%}"


def scale_lines(found: Sequence[LadderFindings]) -> list[str]:
    """A line for each verdict over scale, then what holds for a ladder and for all of them."""
    lines: list[str] = []
    for each in found:
        rungs = each.ladder.rungs
        span = rungs[-1].flops / rungs[0].flops
        lines.append(
            f"OVER SCALE  {each.ladder.task}: {len(rungs)} sizes, {count(rungs[0].flops)}FLOPs to "
            f"{count(rungs[-1].flops)}FLOPs ({_times(span)} as many); verdicts are about {TIMES} times the largest."
        )
        lines += [scale_line(item) for item in each.items]
        lines.append(f"LAW  {law_sentence(each)}")
    if lines and (tested := held_out_sentence(found)):
        lines.append(f"HELD OUT  {tested}")
    return lines


def scale_line(item: OverScale) -> str:
    """The verdict as one line."""
    return f"{item.verdict.value:<10}  {scale_sentence(item)}"


def scale_sentence(item: OverScale) -> str:
    """Say the verdict on one variant, with what it rests on."""
    label = item.climb.label
    if item.forecast is None:
        return f"{label}: {_lacks(item.missing)}"
    low, high = item.interval or (math.nan, math.nan)
    digits = decimals_for((high - low) / 2)
    now, then = item.forecast.now, item.forecast.then
    size = item.climb.rungs[-1].name
    shown = f"{_INTERVAL} of measurements {number(low, digits, signed=True)} to {number(high, digits, signed=True)}"
    does = f"{'lowers' if now < 0 else 'raises'} {item.metric} by {number(abs(now), digits)} at {size}"
    ahead = f"at {TIMES} times the compute"
    sign = "" if item.p_sign is None else f"; Holm p {p_value(item.p_sign)}"
    fade = "" if item.p_fade is None else f"; Holm p {p_value(item.p_fade)}"
    said = {
        ScaleVerdict.HOLDS: f"{label} {does}, and {ahead} by {number(abs(then), digits)} ({shown}{sign})",
        ScaleVerdict.FADES: f"{label} {does}, and {ahead} by less than half of that: "
        f"{number(then, digits, signed=True)} ({shown}{fade})",
        ScaleVerdict.REVERSES: f"{label} {_reversed(item, digits, size)}, and {'lowers' if then < 0 else 'raises'} it "
        f"{ahead} by {number(abs(then), digits)} ({shown}{sign})",
        ScaleVerdict.UNKNOWN: f"{label}: {number(now, digits, signed=True)} at {size}, and {ahead} "
        f"{number(then, digits, signed=True)} ({shown}{sign})",
    }
    return f"{said[item.verdict]}{_gain_text(item)}."


def _reversed(item: OverScale, digits: int, largest: str) -> str:
    """What the sign at ten times the compute is contrary to: the effect at the largest size, or that at the smallest,
    where the one at the largest is on its way and has the new sign already."""
    assert item.forecast is not None
    first, now, then = (float(each) for each in item.forecast.effects)
    turned = now * then > 0
    effect, size = (first, item.climb.rungs[0].name) if turned else (now, largest)
    text = f"{'lowers' if effect < 0 else 'raises'} {item.metric} by {number(abs(effect), digits)} at {size}"
    return f"{text}, is at {number(now, digits, signed=True)} by {largest}" if turned else text


def _lacks(missing: Missing | None) -> str:
    if missing is None:
        return "nothing to compare."
    if missing.rungs is not None:
        return f"pairs at {plural(missing.rungs, 'size')}; an extrapolation needs {FEWEST_RUNGS}."
    if missing.seeds is not None:
        return f"{plural(missing.seeds, 'pair')} at some size; each of {FEWEST_RUNGS} sizes needs {FEWEST_SEEDS}."
    if missing.largest is not None:
        return f"fewer than {FEWEST_SEEDS} pairs at {missing.largest}, the largest size; nothing is foreseen beyond it."
    if missing.diverged is not None:
        size, diverged, ended = missing.diverged
        return f"{diverged}/{ended} diverged at {size}, no less often than the baseline; nothing is foreseen of it."
    return "never differs from the baseline."


def _gain_text(item: OverScale) -> str:
    """What the effect is worth in compute at the largest size, and how that changes."""
    if item.gains is None or not item.gains.at or (gain := item.gains.at[-1]) is None:
        return ""
    net = item.gains.net[-1]
    cost = item.climb.cost[-1]
    paid = net is not None and math.isfinite(cost) and abs(cost - 1) > 0.005
    at_cost = f", {_factor(net)} at its own FLOPs" if paid and net else ""
    slope = f", times {_factor(item.gains.slope)} with each tenfold" if item.gains.slope else ""
    return f"; worth {gain_text(gain)} times the compute{at_cost}{slope}"


def gain_text(gain: Gain | None) -> str:
    """ "1.31 (1.12 to 1.53)"."""
    if gain is None:
        return MISSING
    if gain.interval is None:
        return _factor(gain)
    low, high = gain.interval
    return f"{_factor(gain)} ({_times_text(low)} to {_times_text(high)})"


def _factor(gain: Gain | None) -> str:
    return MISSING if gain is None else _times_text(gain.factor)


def _times_text(value: float) -> str:
    if 0.005 <= value < 100:
        return f"{value:.2f}"
    return f"{value:.1e}" if 1e-4 < value < 1e4 else "<1e-04" if value < 1 else ">1e+04"  # as good as unknown


def _times(value: float) -> str:
    return f"{value:,.0f} times" if value >= 10 else f"{value:.1f} times"


def law_sentence(found: LadderFindings) -> str:
    """The baseline's law, and how much is known of its floor."""
    law, metric = found.law, found.ladder.metric
    if law is None:
        return f"{metric} of the baseline follows no law that is known; compute-equivalent gains are not given."
    name = metric if found.ladder.direction == "min" else f"{metric_text(found.ladder.limit)} - {metric}"
    sign = f" = {law.floor:.3g} + {_scale_of(law)} C^-{law.alpha:.3f}, C in FLOPs"
    return f"{found.ladder.baseline}: {name}{sign}; {_floor_text(law)}"


def _scale_of(law: Curve) -> str:
    return f"{math.exp(law.log_scale):.3g}"


def _floor_text(law: Curve) -> str:
    low, high = law.floor_range
    if law.floor_known:
        return "its floor is known of the task."
    if law.identified:
        return f"a floor from {low:.3g} to {high:.3g} fits."
    return f"its floor is not identified: any from {low:.3g} to {high:.3g} fits about as well."


def held_out_sentence(found: Sequence[LadderFindings]) -> str:
    """How the largest size came out, as it was foreseen from the others; "" where that was not possible."""
    covered = coverage(found)
    if covered is None:
        return ""
    tests = [item.held_out for each in found for item in each.items if item.held_out]
    low, high = covered.interval
    return (
        f"{covered.inside} of {covered.count} effects at the largest size lie in the {_INTERVAL} interval that the "
        f"smaller sizes alone give, from {_range_of(tests)} less compute: {covered.inside / covered.count:.0%} "
        f"({confidence(LEVEL)} CI {low:.0%} to {high:.0%})."
    )


def _range_of(tests: Sequence[HeldOut]) -> str:
    low, high = min(test.times for test in tests), max(test.times for test in tests)
    return _times(high) if high - low < 0.05 * high else f"{low:.1f} to {_times(high)}"


def scale_table(found: LadderFindings) -> pd.DataFrame:
    """A row per variant, as text: now, what it is worth, and what is foreseen."""
    of_gains = f"{confidence(found.level)} CI"
    return pd.DataFrame([_row(item, found.ladder.rungs[-1].name, of_gains) for item in found.items])


def _row(item: OverScale, largest: str, of_gains: str) -> dict[str, str]:
    gains, seen, held = item.gains, item.forecast, item.held_out
    at, net = (gains.at[-1], gains.net[-1]) if gains and _reaches(item, largest) else (None, None)
    low, high = item.interval or (math.nan, math.nan)
    digits = decimals_for((high - low) / 2)
    return {
        "variant": item.climb.label,
        "verdict": item.verdict.value if item.verdict is ScaleVerdict.UNKNOWN else f"* {item.verdict.value}",
        "effect now": number(seen.now, digits, signed=True) if seen else MISSING,
        f"gain ({of_gains})": gain_text(at),
        "at its FLOPs": _factor(net),
        "per tenfold": gain_text(gains.slope) if gains else MISSING,
        f"at {TIMES}x": number(seen.then, digits, signed=True) if seen else MISSING,
        f"{_INTERVAL} interval": f"{number(low, digits, signed=True)} to {number(high, digits, signed=True)}"
        if seen
        else MISSING,
        "held out": MISSING if held is None else "inside" if held.inside else "outside",
    }


def _reaches(item: OverScale, largest: str) -> bool:
    """Whether it has pairs at the largest size, where gains are told."""
    return any(rung.name == largest for rung in item.climb.rungs)


def effects_table(found: LadderFindings) -> pd.DataFrame:
    """A row per variant with its effect at each size, and half of the interval beside it, as text."""
    rows = []
    for item in found.items:
        at = dict(zip((rung.name for rung in item.climb.rungs), item.climb.items, strict=True))
        row = {"variant": item.climb.label}
        for rung in found.ladder.rungs:
            row[rung.name] = MISSING
            if rung.name in at and (effect := at[rung.name].effect) is not None:
                low, high = at[rung.name].interval or (effect, effect)
                half = (high - low) / 2
                digits = decimals_for(half or effect)
                spread = f" ± {number(half, digits)}" if half else ""
                row[rung.name] = f"{number(effect, digits, signed=True)}{spread}"
        rows.append(row)
    return pd.DataFrame(rows)
