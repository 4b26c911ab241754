"""Numbers as people read them: effects and p values as a verdict prints them, metrics, and costs with their units.

Two digits of what is uncertain; p values without a leading zero; "12.3 M", "48 MiB", "2 min 5 s"; a dash where nothing
was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

MISSING = "–"
_MOST_DECIMALS = 6  # beyond, powers of ten read better, unless the value itself is not small
_LARGEST = 1e15  # from here on not every digit is known


def decimals_for(scale: float) -> int:
    """The decimals that show two significant digits of `scale`, the half width of an interval or a margin."""
    if not math.isfinite(scale) or scale == 0:
        return 4
    return max(0, 1 - math.floor(math.log10(abs(scale))))


def number(value: float, decimals: int, *, signed: bool = False) -> str:
    """`value` with `decimals`: "-0.025", "+0.005"; a zero has no sign."""
    if not math.isfinite(value):
        return "?"
    small = abs(value) < 10 ** (1 - _MOST_DECIMALS)
    plain = abs(value) < _LARGEST and (decimals <= _MOST_DECIMALS or not small)
    text = f"{value:+.{min(decimals, _MOST_DECIMALS)}f}" if plain else f"{value:+.1e}"
    if float(text) == 0:
        return text[1:]
    return text if signed else text.removeprefix("+")


def p_value(p: float) -> str:
    """The right side of "p": "< .001", "= .004", "= .11", "> .99"."""
    if p < 0.001:
        return "< .001"
    if p > 0.99:
        return "> .99"
    # Three decimals while p is near what decides, so that .049 does not read as .05, nor .0497.
    if 0.0495 <= p < 0.05:
        return "< .050"
    return "= " + f"{p:.{3 if p < 0.0995 else 2}f}"[1:]


def without_zero(value: float) -> str:
    """A level, to three digits: ".05", ".0167"."""
    return f"{value:.3g}".removeprefix("0")


def confidence(level: float) -> str:
    """The confidence of an interval at `level`: "95%", "97.5%", "98.33%", "99.9998%"; never 100%."""
    digits = max(2, -math.floor(math.log10(100 * level))) if level > 0 else 2
    return f"{100 * (1 - level):.{digits}f}".rstrip("0").rstrip(".") + "%"


def share(value: float) -> str:
    """A correlation or a share of one: ".90", "-.12", "1.00"."""
    text = f"{value:.2f}"
    if float(text) == 0:
        return ".00"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def percent(value: float) -> str:
    """A relative difference: "+38%", "-2.4%", "+0.03%", "+250%"."""
    size = abs(value) * 100
    digits = 0 if size >= 10 or size == 0 else min(6, 1 - math.floor(math.log10(size)))
    text = f"{value * 100:+.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "%"


def budget_text(differences: Mapping[str, float]) -> str:
    """Relative differences by name: "+38% FLOPs, -3% tokens"."""
    return ", ".join(f"{percent(value)} {name}" for name, value in differences.items())


def plural(count: int, noun: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def count(value: float | None) -> str:
    """Three significant digits with a metric prefix: 12345 -> "12.3 k"."""
    if value is None or not math.isfinite(value):
        return MISSING
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{_three_digits(value / factor)} {prefix}"
    return _three_digits(value)


def memory(value_bytes: float | None) -> str:
    """Binary units: 50000000 -> "47.7 MiB"."""
    if value_bytes is None or not math.isfinite(value_bytes):
        return MISSING
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(value_bytes) >= 1024**power:
            return f"{_three_digits(value_bytes / 1024**power)} {unit}"
    return f"{value_bytes:.0f} B"


def duration(value_s: float | None) -> str:
    """ "9.5 s", "2 min 5 s", "3 h 20 min"."""
    if value_s is None or not math.isfinite(value_s):
        return MISSING
    if value_s < 59.95:
        return f"{value_s:.1f} s"
    minutes, seconds = divmod(round(value_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"


def milliseconds(value_s: float | None) -> str:
    """A part of a step: "0.412 ms", "1.25 s"."""
    if value_s is None or not math.isfinite(value_s):
        return MISSING
    return f"{_three_digits(value_s)} s" if value_s >= 0.9995 else f"{_three_digits(value_s * 1000)} ms"


def metric_text(value: float | None, sd: float | None = None) -> str:
    """A metric, "0.9123", or with its spread over seeds, "0.912 ± 0.031"."""
    if value is None or not math.isfinite(value):
        return MISSING
    if sd is None or not math.isfinite(sd) or sd == 0:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.3e}"
    decimals = max(0, 1 - math.floor(math.log10(sd)))
    if decimals > 6:
        return f"{value:.4g} ± {sd:.1g}"
    return f"{value:.{decimals}f} ± {sd:.{decimals}f}"


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(decimals, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
