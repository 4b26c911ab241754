"""Costs as a person reads them: "12.3 M", "48 MiB", "2 min 5 s"; a dash where nothing was measured."""

from __future__ import annotations

import math

MISSING = "–"


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


def figure(value: float | None, sd: float | None = None) -> str:
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
