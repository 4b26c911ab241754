"""Numbers as a verdict prints them: two digits of what is uncertain, p values without a leading zero."""

from __future__ import annotations

import math

MINUS = "-"
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
    # Three decimals while p is near what decides, so that .049 does not read as .05.
    return "= " + f"{p:.{3 if p < 0.0995 else 2}f}"[1:]


def without_zero(value: float) -> str:
    """A level, to three digits: ".05", ".0167"."""
    return f"{value:.3g}".removeprefix("0")


def confidence(level: float) -> str:
    """The confidence of an interval at `level`: "95%", "97.5%", "98.33%"."""
    return f"{100 * (1 - level):.2f}".rstrip("0").rstrip(".") + "%"


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


def plural(count: int, noun: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
