"""When verdicts were drawn from a study: `looks.json` in its folder, and what the records of later runs say of it.

Whoever adds seeds until a difference is significant will find one. What was concluded from, and when, is therefore
kept beside the runs, and the comparison grows stricter with each of these interim analyses (`ablab.analysis.looks`).
One is a set of seeds: the same ones again, with more variants or fewer, give no second chance to the comparisons that
were there.

They belong to the study and not to a folder: a run that is planned after an analysis has it in its record, so that
runs may be moved, copied and shared out, and still tell how often they were looked at.
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
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, parse_json, write_atomically

INTERIM_FILE = "looks.json"
_DEPTH = 2  # of a run below its study: variant/seed


@dataclass(frozen=True)
class InterimAnalysis:
    """One time that a study's verdicts were drawn."""

    seeds: tuple[int, ...]  # of the runs that had finished or diverged, sorted
    at: str  # ISO 8601, UTC


def read_interim_analyses(folder: Path) -> list[InterimAnalysis]:
    """Return the interim analyses of the study in `folder`, in order; none where none was counted.

    Raises:
        UserError: the file cannot be read or is damaged; the message names it.
    """
    path = folder / INTERIM_FILE
    try:
        return as_interim_analyses(parse_json(path.read_bytes()), path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _damaged(path) from error


def as_interim_analyses(data: Any, path: Path) -> list[InterimAnalysis]:
    """Return the interim analyses in `data`, as the file `path` has them. Raises UserError where they are none."""
    try:
        return [_analysis(item) for item in _list(data)]
    except (TypeError, KeyError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path}: damaged, so that the number of interim analyses is not known; "
        "restore the file, or remove it to count them from none again"
    )


def count_interim_analysis(folder: Path, seeds: Iterable[int]) -> list[InterimAnalysis]:
    """Note that verdicts are drawn from `seeds`, unless an earlier analysis had them all; return all of them in order.

    Raises:
        UserError: as `read_interim_analyses` does, or the file cannot be written.
    """
    analyses = read_interim_analyses(folder)
    compared = set(seeds)
    if any(compared <= set(each.seeds) for each in analyses) or not compared:
        return analyses
    analyses.append(InterimAnalysis(tuple(sorted(compared)), datetime.now(UTC).isoformat(timespec="seconds")))
    path = folder / INTERIM_FILE
    try:
        write_atomically(path, json.dumps([asdict(each) for each in analyses], indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}), so that this interim analysis would not count"
        ) from error
    return analyses


def interim_analyses_of(runs: Iterable[Path]) -> list[InterimAnalysis]:
    """Return those that the studies of these folders of runs have counted, united."""
    # Thousands of runs share few folders, each of which is asked once.
    resolved, counted = cache(Path.resolve), cache(lambda folder: (folder / INTERIM_FILE).is_file())

    def study_of(run: Path) -> Path | None:
        named = run.name not in ("", "..") and not run.is_symlink()
        led = run.absolute()  # where a variant's folder is a link, its study is where the link lies
        run = resolved(run.parent) / run.name if named else run.resolve()
        places = [run, *run.parents][: _DEPTH + 1] + [led, *led.parents][: _DEPTH + 1]
        return next((resolved(folder) for folder in places if counted(folder)), None)

    studies = dict.fromkeys(study for run in runs if (study := study_of(run)))
    return united(look for study in studies for look in read_interim_analyses(study))


def interim_analyses_in(records: Iterable[tuple[Path, Record]]) -> list[InterimAnalysis]:
    """Return those that the records of runs know of, each with the folder of its run. Raises UserError for damage."""
    told = {json.dumps(record.looks): (path, record.looks) for path, record in records if record.looks}
    return united(look for path, looks in told.values() for look in as_interim_analyses(looks, path / RECORD_FILE))


def united(analyses: Iterable[InterimAnalysis]) -> list[InterimAnalysis]:
    """Return the analyses of one study or of several in their order, without those whose seeds an earlier one had."""
    found: list[InterimAnalysis] = []
    for each in sorted(analyses, key=lambda each: (each.at, len(each.seeds), each.seeds)):
        if not any(set(each.seeds) <= set(before.seeds) for before in found):
            found.append(each)
    return found


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise TypeError("not a list")
    return data


def _analysis(item: Any) -> InterimAnalysis:
    seeds, at = item["seeds"], item["at"]
    if not (isinstance(seeds, list) and all(type(seed) is int for seed in seeds) and isinstance(at, str)):
        raise TypeError("not an interim analysis")
    return InterimAnalysis(tuple(seeds), at)
