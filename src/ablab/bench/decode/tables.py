"""Tables and lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ablab.bench.attention.tables import MISSING, Table, three_digits
from ablab.bench.decode.entries import BASE
from ablab.bench.decode.measure import Timed
from ablab.bench.layers.measure import Ratio

TITLES = {"prefill": "prompt", "token": "one more token"}
PROMISED_FROM = 2048  # tokens; of shorter sequences a cache is little beside the rest of a model
FULL = f"{BASE}: ours"


def tables(rows: Sequence[Timed]) -> list[Table]:
    """Milliseconds by length, for each size of the batch, then ratios to transformers, then bytes."""
    batches, kinds = dict.fromkeys(row.batch for row in rows), ("prefill", "token")
    made = [_times(rows, kind, batch) for batch in batches for kind in kinds]
    made += [_ratios(rows, kind, batch) for batch in batches for kind in kinds]
    return [table for table in [*made, _bytes(rows)] if table.rows]


def lines(rows: Sequence[Timed]) -> list[str]:
    """What a smaller cache promises and does not keep, and what was skipped."""
    skipped = {(row.entry, row.skipped): None for row in rows if row.skipped}
    return [*_unkept(rows), *(f"left out: {entry}: {why}" for entry, why in skipped)]


def _unkept(rows: Sequence[Timed]) -> Iterator[str]:
    """Where a token is less than half as much faster than full attention's as its bytes are fewer."""
    base = {(row.batch, row.length): row for row in rows if row.kind == "token" and row.entry == FULL and row.seconds}
    for row in rows:
        full = base.get((row.batch, row.length))
        known = row.kind == "token" and row.ours and row.seconds and row.length >= PROMISED_FROM
        if not known or full is None or row.nbytes is None or full.nbytes is None or row is full:
            continue
        fewer, faster = full.nbytes / row.nbytes, 1 / Ratio.of(row, full).median
        if fewer > 1.05 and faster < fewer / 2:
            yield (
                f"{row.entry} at {row.length:,} tokens, batch {row.batch}: {fewer:.3g} times fewer bytes than full "
                f"attention, and {faster:.2f} times as fast, not {fewer / 2:.3g}: the rest of a token takes its time"
            )


def _times(rows: Sequence[Timed], kind: str, batch: int) -> Table:
    lengths = _lengths(rows)
    shown = []
    for entry in dict.fromkeys(row.entry for row in rows):
        cells = {row.length: row for row in _of(rows, entry, kind, batch)}
        if cells:
            shown.append([entry, *(_time(cells.get(length)) for length in lengths)])
    title = f"{TITLES[kind]}, batch {batch}: milliseconds, median (middle half)"
    return Table(title, ["", *(f"{length:,}" for length in lengths)], shown)


def _time(row: Timed | None) -> str:
    if row is None:
        return MISSING
    low, high = (sorted(row.seconds)[round(share * (len(row.seconds) - 1))] for share in (0.25, 0.75))
    return f"{three_digits(row.median_s * 1e3)} ({three_digits(low * 1e3)}–{three_digits(high * 1e3)})"


def _ratios(rows: Sequence[Timed], kind: str, batch: int) -> Table:
    lengths = _lengths(rows)
    shown = []
    for entry in dict.fromkeys(row.entry for row in rows if not row.ours):
        name = entry.partition(":")[0]
        theirs = {row.length: row for row in _of(rows, entry, kind, batch)}
        ours = {row.length: row for row in _of(rows, f"{name}: ours", kind, batch)}
        if theirs and ours:
            shown.append([name, *(_ratio(ours.get(length), theirs.get(length)) for length in lengths)])
    title = f"{TITLES[kind]}, batch {batch}: ours / transformers, time, median of the rounds (middle half)"
    return Table(title, ["", *(f"{length:,}" for length in lengths)], shown)


def _ratio(ours: Timed | None, theirs: Timed | None) -> str:
    if ours is None or theirs is None:
        return MISSING
    ratio = Ratio.of(ours, theirs)
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def _bytes(rows: Sequence[Timed]) -> Table:
    lengths = _lengths(rows)
    shown = []
    for entry in dict.fromkeys(row.entry for row in rows if row.ours):
        cells = {row.length: row.nbytes for row in rows if row.entry == entry and row.batch == rows[0].batch}
        shown.append(
            [entry, *(MISSING if (n := cells.get(each)) is None else three_digits(n / 1024) for each in lengths)]
        )
    return Table(f"kept of {rows[0].batch} samples: KiB", ["", *(f"{length:,}" for length in lengths)], shown)


def _of(rows: Sequence[Timed], entry: str, kind: str, batch: int) -> list[Timed]:
    return [row for row in rows if (row.entry, row.kind, row.batch) == (entry, kind, batch) and row.seconds]


def _lengths(rows: Sequence[Timed]) -> list[int]:
    return sorted({row.length for row in rows})
