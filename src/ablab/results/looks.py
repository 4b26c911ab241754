"""How often a study has been looked at: `looks.json` in its folder.

Whoever adds seeds until a difference is significant will find one. What was concluded from, and when, is therefore kept
beside the runs, and the comparison grows stricter with it (`ablab.analysis.family`). A look is a set of seeds: the same
ones again, with more variants or fewer, give no second chance to the comparisons that were there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from ablab.errors import UserError
from ablab.results.store import write_atomically

LOOKS_FILE = "looks.json"
_DEPTH = 2  # of a run below its study: variant/seed


@dataclass(frozen=True)
class Look:
    """One time that a study's verdicts were drawn."""

    seeds: tuple[int, ...]  # of the runs that had finished or diverged, sorted
    at: str  # ISO 8601, UTC


def read_looks(folder: Path) -> list[Look]:
    """The looks at the study in `folder`, in order; none where none was counted.

    Raises:
        UserError: the file cannot be read or is damaged; the message names it.
    """
    path = folder / LOOKS_FILE
    try:
        return as_looks(json.loads(path.read_text(encoding="utf-8")), path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _damaged(path) from error


def as_looks(data: Any, path: Path) -> list[Look]:
    """Return the looks in `data`, as the file `path` has them. Raises UserError where they are none."""
    try:
        return [_look(item) for item in _list(data)]
    except (TypeError, KeyError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path}: damaged, so that the looks at this study are not known; "
        "restore the file, or remove it to count them from none again"
    )


def count_look(folder: Path, seeds: Iterable[int]) -> list[Look]:
    """Note that verdicts are drawn from `seeds`, unless an earlier look had them all; every look so far, in order.

    Raises:
        UserError: as `read_looks` does, or the file cannot be written.
    """
    looks = read_looks(folder)
    compared = set(seeds)
    if any(compared <= set(look.seeds) for look in looks) or not compared:
        return looks
    looks.append(Look(tuple(sorted(compared)), datetime.now(UTC).isoformat(timespec="seconds")))
    path = folder / LOOKS_FILE
    try:
        write_atomically(path, json.dumps([asdict(look) for look in looks], indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}), so that this look would not count") from error
    return looks


def looks_at(runs: Iterable[Path]) -> list[Look]:
    """The looks at the study that these folders of runs belong to; of several studies, at the one with the most."""
    # Thousands of runs share few folders, each of which is asked once.
    resolved, counted = cache(Path.resolve), cache(lambda folder: (folder / LOOKS_FILE).is_file())

    def study_of(run: Path) -> Path | None:
        named = run.name not in ("", "..") and not run.is_symlink()
        run = resolved(run.parent) / run.name if named else run.resolve()
        return next((folder for folder in [run, *run.parents][: _DEPTH + 1] if counted(folder)), None)

    studies = dict.fromkeys(study for run in runs if (study := study_of(run)))
    return max((read_looks(study) for study in studies), key=len, default=[])


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise TypeError("not a list")
    return data


def _look(item: Any) -> Look:
    seeds, at = item["seeds"], item["at"]
    if not (isinstance(seeds, list) and all(type(seed) is int for seed in seeds) and isinstance(at, str)):
        raise TypeError("not a look")
    return Look(tuple(seeds), at)
