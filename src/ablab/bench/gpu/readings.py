"""The table of a step from what it has written or printed, also where it was cut off half-way through."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from ablab.bench.gpu.results import Row

RESULT_FILE = "result.json"  # of a step, in its folder
_FLASH = "sdpa-flash"  # that ratios are to
_OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b", re.MULTILINE)
_MOST = 12  # tests that did not pass, by name


def _of_file(read: Callable[[Any], list[Row]]) -> Callable[[Path, str], list[Row]]:
    """Read what a step has written; nothing of a file that is not there, or is half of one."""

    def rows(folder: Path, printed: str) -> list[Row]:
        try:
            text = (folder / RESULT_FILE).read_text(encoding="utf-8")
            return read(json.loads(text, parse_constant=lambda _: None))  # NaN is nothing to be written on
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
            return []

    return rows


def tests(folder: Path, printed: str) -> list[Row]:
    """How many tests passed, and which did not."""
    found = _OUTCOME.findall(printed)
    counts = Counter(outcome.lower() for _, outcome in found)
    if not counts:
        return []
    rows: list[Row] = [{"tests": count, "outcome": outcome} for outcome, count in counts.items()]
    bad = [(name, outcome.lower()) for name, outcome in found if outcome in ("FAILED", "ERROR")]
    return rows + [{"tests": name, "outcome": outcome} for name, outcome in bad[:_MOST]]


def _attention(cells: Any) -> list[Row]:
    """Milliseconds by length, and how many times as fast as SDPA's flash; what was skipped says why."""
    rows: dict[tuple[str, str], Row] = {}
    flash = {(cell["pass"], cell["length"]): cell.get("seconds") for cell in cells if cell["implementation"] == _FLASH}
    for cell in cells:
        key = cell["implementation"], cell["pass"].replace("_", " and ")
        row = rows.setdefault(key, {"implementation": key[0], "pass": key[1]})
        length, seconds = f"{cell['length']:,}", cell.get("seconds")
        if seconds is None:
            row[f"{length}: ms"] = cell["skipped"]
            continue
        theirs = flash.get((cell["pass"], cell["length"]))
        row[f"{length}: ms"] = 1000 * seconds
        row[f"{length}: times flash"] = theirs / seconds if theirs else None
    return list(rows.values())


def _loop(found: Any) -> list[Row]:
    return [
        {
            "loop": name,
            "ms a step": found[f"{key}_step_ms"],
            "tokens/s": found[f"{key}_tokens_per_second"],
            "harness over it": found.get(ratio),
        }
        for name, key, ratio in (
            ("bare", "bare", "ratio"),
            ("plain Lightning", "plain", "ratio_plain"),
            ("harness", "harness", ""),
        )
    ]


def _strategies(found: Any) -> list[Row]:
    return [
        {
            "way": speed["strategy"],
            "tokens/s": median(speed["tokens_per_second"]),
            "ratio": median(speed["ratios"]),
            "least": min(speed["ratios"]),
            "most": max(speed["ratios"]),
        }
        for speed in found["speeds"]
    ]


def _any_numbers(found: Any) -> list[Row]:
    """Whatever is a number or a word in an object, or in each of a list of them."""
    every = found if isinstance(found, list) else [found]
    plain: list[Row] = [
        {str(key): value for key, value in each.items() if isinstance(value, str | int | float)} for each in every
    ]
    return [row for row in plain if row]


attention, loop, strategies = _of_file(_attention), _of_file(_loop), _of_file(_strategies)
any_numbers = ranks = _of_file(_any_numbers)
