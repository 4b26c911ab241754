"""The records below folders and in files of kept results, each found once, whatever links lead there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ablab.config.schema import TRIAL_FOLDERS
from ablab.errors import UserError
from ablab.results.kept import SUFFIX, read_kept, why_no_folder
from ablab.results.record import Record
from ablab.results.store import CONFIG_FILE, RECORD_FILE, read_evaluations, read_record


def find_records(places: Iterable[Path]) -> Iterator[tuple[Path, Record]]:
    """Yield every record of `places`, each with the folder of its run, in the order of their paths, and each once.

    Args:
        places: folders of runs, and files of kept results, whose runs have folders that lead through the file.

    Raises:
        UserError: a place does not exist, cannot be read or holds no record, or a record cannot be read.
    """
    found = set()
    for place in places:
        if os.path.isfile(place):  # Path's own raises for names that are too long and for parents out of reach
            if (file := file_identity(place)) not in found:
                found.add(file)
                if not (kept := read_kept(place).records):
                    raise UserError(f"{place}: holds trials alone, and no runs yet: go on with it by `ablab restore`")
                yield from ((place / folder, record) for folder, record in kept.items())
            continue
        for path in record_files(place):
            if (file := file_identity(path)) not in found:  # a sweep and one of its runs may both be named
                found.add(file)
                record = read_record(path)
                record.evaluations = read_evaluations(path.parent, record.fingerprint)
                yield path.parent, record


def record_files(folder: Path, *, some: bool = True) -> list[Path]:
    """Return the records' files below `folder` in the order of their paths, without those of runs that are no part of
    what is compared.

    Args:
        some: there must be one.

    Raises:
        UserError: there is no such folder, part of it cannot be read, or it holds no record.
    """
    if not os.path.isdir(folder):
        raise UserError(why_no_folder(folder))
    files = _record_files(folder)
    if files or not some:
        return files
    if kept := sorted(path.name for path in folder.glob(f"*{SUFFIX}")):
        raise UserError(f"{folder}: holds no runs, but files of kept results ({', '.join(kept)}): name those")
    raise UserError(f"{folder}: no runs here (no {RECORD_FILE} in it or below); give the folder of a run or a sweep")


def trial_files(folder: Path) -> list[Path]:
    """The records' files of the runs below `folder` by which settings were chosen or speeds measured.

    Raises:
        UserError: part of their folders cannot be read.
    """
    places = sorted(place for name in TRIAL_FOLDERS for place in folder.rglob(name) if place.is_dir())
    return [path for place in places for path in _record_files(place)]


def is_one_run(folder: Path) -> bool:
    """Whether `folder` is that of a run, and holds no others."""
    if not any(os.path.isfile(folder / name) for name in (RECORD_FILE, CONFIG_FILE)):
        return False
    return {path.parent for path in _record_files(folder)} <= {folder}


def _record_files(folder: Path) -> list[Path]:
    files = []
    met = {file_identity(place) for place in (folder.resolve(), *folder.resolve().parents)}
    for below, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = _not_met(below, folders, met)
        if RECORD_FILE in names:
            files.append(Path(below, RECORD_FILE))
    return sorted(files, key=lambda path: path.parts)


def _not_met(below: str, folders: list[str], met: set[object]) -> list[str]:
    """The folders to go down into, links among them: each once, and none that leads to where it lies."""
    new = []
    for name in sorted(folders, key=lambda name: os.path.islink(os.path.join(below, name))):
        if name not in TRIAL_FOLDERS and (place := file_identity(Path(below, name))) not in met:
            met.add(place)
            new.append(name)
    return new


def _refuse(error: OSError) -> None:
    """Runs that cannot be read are not runs that were not made: to leave them out would change what is concluded."""
    if not isinstance(error, FileNotFoundError):  # removed meanwhile
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}), and may hold runs") from error


def file_identity(path: Path) -> object:
    """Of a file, under whatever name; asked of the system once, where resolving a path asks for each of its parts."""
    try:
        file = path.stat()
    except OSError:
        return path  # which cannot be read either, and that is said
    return (file.st_dev, file.st_ino) if file.st_ino else os.path.realpath(path)
