"""Tables and lines for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ablab.bench.attention.implementation import Pass
from ablab.bench.attention.tables import MISSING, TITLES, Table, three_digits
from ablab.bench.layers.measure import Ratio, Timed, exponent, passes_of

GROWTH_FROM = 1024  # tokens; below, what does not grow with the length hides how the rest does


def tables(rows: Sequence[Timed]) -> list[Table]:
    """Times, then ratios and growth, of each pass."""
    passes = passes_of(rows)
    made = [make(rows, each) for make in (_times, _ratios) for each in passes]
    return [table for table in made if table.rows]


def lines(rows: Sequence[Timed]) -> list[str]:
    """How far outputs are apart, and what was skipped."""
    errors = [row.error for row in rows if row.error is not None]
    found = []
    if errors:
        found.append(
            f"With the same weights outputs and gradients of the input differ by at most {max(errors):.1e} of the "
            "largest number."
        )
    skipped = {(row.kind, row.layer, row.skipped): None for row in rows if row.skipped}
    return [*found, *(f"left out of {kind}: {layer}: {why}" for kind, layer, why in skipped)]


def _times(rows: Sequence[Timed], pass_: Pass) -> Table:
    lengths = _lengths(rows)
    shown = []
    for (kind, layer, ours), found in _by_layer(rows, pass_).items():
        cells = {row.length: _time(row) for row in found if row.seconds}
        name = f"{kind}: ours" if ours else f"{kind}: {layer}"
        growth = exponent(found, GROWTH_FROM)
        power = MISSING if growth is None else f"T^{growth:.2f}"
        shown.append([name, *(cells.get(length, MISSING) for length in lengths), power])
    header = ["", *(f"{length:,}" for length in lengths), f"growth from {GROWTH_FROM:,}"]
    return Table(f"{TITLES[pass_]}: milliseconds, median ± half of the middle half", header, shown)


def _time(row: Timed) -> str:
    low, high = np.quantile(row.seconds, [0.25, 0.75])
    return f"{three_digits(row.median_s * 1e3)} ±{(high - low) / 2 / row.median_s:.0%}"


def _ratios(rows: Sequence[Timed], pass_: Pass) -> Table:
    lengths = _lengths(rows)
    shown = []
    for kind in dict.fromkeys(row.kind for row in rows):
        best = {length: fastest([row for row in rows if (row.kind, row.pass_, row.length) == (kind, pass_, length)])
                for length in lengths}  # fmt: skip
        if any(best.values()):
            cells = (MISSING if each is None else _ratio(each[0]) for each in best.values())
            shown.append([kind, *cells, next(each[1] for each in reversed(best.values()) if each)])
    header = ["", *(f"{length:,}" for length in lengths), "fastest peer at the longest"]
    return Table(f"{TITLES[pass_]}: ours / fastest peer, time, median of the rounds (middle half)", header, shown)


def fastest(rows: Sequence[Timed]) -> tuple[Ratio, str] | None:
    """Ours beside the fastest of the others, of one kind in one pass at one length; None without any of them."""
    ours = next((row for row in rows if row.ours and row.seconds), None)
    others = [row for row in rows if not row.ours and row.seconds]
    if ours is None or not others:
        return None
    best = min(others, key=lambda row: row.median_s)
    return Ratio.of(ours, best), best.layer


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def _lengths(rows: Sequence[Timed]) -> list[int]:
    return sorted({row.length for row in rows})


def _by_layer(rows: Sequence[Timed], pass_: Pass) -> dict[tuple[str, str, bool], list[Timed]]:
    found: dict[tuple[str, str, bool], list[Timed]] = {}
    for row in rows:
        if row.pass_ == pass_:
            found.setdefault((row.kind, row.layer, row.ours), []).append(row)
    return {key: its for key, its in found.items() if any(row.seconds for row in its)}
