"""The list of the checkpoints that a run wrote, with their checksums: what is in it is whole, and nothing else is.

`checksums.json` lies beside the checkpoints, each of which is a file, or a folder of files (`checkpoint_folders`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ablab.errors import UserError
from ablab.results.curves import rows_sha256
from ablab.results.store import CHECKSUM_FILE, METRICS_FILE, parse_json, remove, remove_orphans, write_atomically
from ablab.training.world import world

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
_LISTED_BEST = 2  # of those with the best metric: the one that has the name, and one that may be about to
_LISTED = 4  # the last ones; two of them are on the disk, and one may be about to be


@dataclass(frozen=True)
class Origin:
    """What a checkpoint belongs to. It is of no use to another run, nor to this one on other data."""

    run: str  # the fingerprint of the config
    corpus: str  # the hash of the data


@dataclass(frozen=True)
class Entry(Origin):
    """A checkpoint that was written."""

    sha256: str
    step: int
    best: bool = False  # whether it was named `best.ckpt`, and so outlives those that were written later
    rows: int = 0  # of the learning curves that there were then
    rows_sha256: str | None = None


@dataclass(frozen=True)
class Found:
    """A whole checkpoint to go on from."""

    path: Path
    step: int
    rows: int = 0  # of the learning curves that there were when it was written
    rows_sha256: str | None = None
    sha256: str | None = None  # as it is listed

    def changed_curves(self, run: Path) -> list[str]:
        """A line where the learning curves in the folder of the run are not those that it had written by then."""
        if self.rows_sha256 is None or rows_sha256(run / METRICS_FILE, self.rows)[1] == self.rows_sha256:
            return []
        return [f"{METRICS_FILE} was changed: its rows up to step {self.step} are not those that the run wrote"]


def newest_whole(folder: Path, origin: Origin) -> tuple[Found | None, list[str]]:
    """The newest whole checkpoint of `origin` in `folder`, if there is any, and a line on each that is of no use to it.

    What a killed process was about to write is removed, by the first process of the run.
    """
    if world().rank == 0:
        remove_orphans(folder, (CHECKSUM_FILE, LAST, PREVIOUS, BEST))
    known = {entry.sha256: entry for entry in listed(folder)}
    damaged: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not (path.is_file() or path.is_dir()):
            continue
        entry = known.get(sha256_of(path))
        if entry is not None and (entry.run, entry.corpus) == (origin.run, origin.corpus):
            return Found(path, entry.step, entry.rows, entry.rows_sha256, entry.sha256), damaged
        if entry is None:
            damaged.append(f"{folder.name}/{name} is damaged (its checksum is not that of what was written)")
        elif entry.run == origin.run:
            damaged.append(f"{folder.name}/{name} is of other data than there are now")
    return None, damaged


def check_whole(path: Path) -> None:
    """Raises UserError if a checkpoint is not what was written, as far as the list beside it tells.

    Where there is no list, as in a folder that was copied without it, there is nothing to compare with.
    """
    checksums = path.with_name(CHECKSUM_FILE)
    if not checksums.exists():
        return
    known = _read_list(path.parent)
    if known is None:
        raise UserError(f"{checksums}: damaged, so that {path.name} cannot be checked; remove it to use it unchecked")
    # Versions before did not list the best one for good.
    unknown = path.name == BEST and not any(entry.best for entry in known)
    if not unknown and sha256_of(path) not in {entry.sha256 for entry in known}:
        raise UserError(f"{path}: a damaged checkpoint (its checksum is not that of what was written)")


def newest_listed(folder: Path, run: str) -> int | None:
    """The step of the newest checkpoint of a run that was written in `folder`; None if none is listed."""
    return max((entry.step for entry in listed(folder) if entry.run == run), default=None)


def listed(folder: Path) -> list[Entry]:
    """What is listed, the newest first; nothing, and a line on stderr, where the list is damaged."""
    entries = _read_list(folder)
    if entries is None:
        print(f"{folder / CHECKSUM_FILE}: damaged, so no checkpoint beside it can be trusted", file=sys.stderr)
    return entries or []


def _read_list(folder: Path) -> list[Entry] | None:
    """What is listed, nothing where there is no list; None where it is damaged."""
    try:
        found = parse_json((folder / CHECKSUM_FILE).read_bytes())
        entries = [Entry(**each) for each in found]
        return entries if all(type(entry.step) is type(entry.rows) is int for entry in entries) else None
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError):
        return None


def write_list(folder: Path, entries: Sequence[Entry]) -> None:
    """Write the list of what was written, as far as it is on the disk or about to be."""
    best = [entry for entry in entries if entry.best][:_LISTED_BEST]
    kept = [entry for place, entry in enumerate(entries) if place < _LISTED or entry in best]
    if (folder / CHECKSUM_FILE).is_dir():  # damage; nothing of a run's own
        remove(folder / CHECKSUM_FILE)
    write_atomically(folder / CHECKSUM_FILE, json.dumps([asdict(each) for each in kept], indent=1))


def sha256_of(path: Path) -> str:
    """The checksum of a file, or of all files of a folder with their names."""
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        names = [f"{each.relative_to(path)} {sha256_of(each)}" for each in files]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
