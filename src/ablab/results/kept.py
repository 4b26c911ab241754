"""A study's results as one compressed file: what `ablab keep` writes, and how it is read.

The file is lines of JSON, compressed with xz, so that `xz -dc study.jsonl.xz | head -1` shows its beginning:

    {"kept": 1, "runs": 30, "interim_analyses": [...], "plan": {...}}
    {"folder": "attention=lsh/seed=0", "record": {...}, "curves": "epoch,step,train_loss\\n0,10,2.3\\n"}

The first line says how many runs follow, when verdicts were drawn, and what was planned (null: no plan was found). Each
other line is a run: its folder below the study's, its record and its learning curves, as their files hold them, and its
evaluations elsewhere, where it has any. Nothing else of a study is in it: no checkpoints, logs or pictures, and none of
the folders that its plan names. Where it was asked for, runs that chose settings or measured speeds follow, marked as
trials: readers pass over them, and `ablab restore` needs them no more to be trained.

A file is data only, whoever it is from: reading one writes nothing, and the folders in it are names.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ablab.config import Node
from ablab.errors import UserError
from ablab.results.evaluation import as_evaluation, known_fields
from ablab.results.record import Record
from ablab.results.store import as_record, parse_json, replacing

SUFFIX = ".jsonl.xz"
_SCHEMA = 2  # 1: without trials, which is written still where there are none
_PACKED = b"\xfd7zXZ\x00"  # how every .xz file begins
_MARK = b'{"kept":'  # how the text of every such file begins
_LONGEST_LINE = 2**27  # bytes: the plan of some 30,000 runs
_LONGEST_FILE = 2**30  # bytes of text, so that no file fills the memory
_DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, lzma.LZMAError, MemoryError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class KeptStudy:
    """The results of a study, out of its file.

    `records` and `curves` (the text of `metrics.csv`) are by the run's folder below the study's, in the order written.
    """

    plan: Node | None = None
    interim_analyses: list[Any] = field(default_factory=list)  # as `looks.json` has them
    records: dict[str, Record] = field(default_factory=dict)
    curves: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """A run as it is written: its record is kept as its file had it, fields of later versions included."""

    folder: str
    record: Node
    curves: str | None
    evaluations: list[Node] = field(default_factory=list)
    trial: bool = False  # it chose a setting or measured a speed, and is no part of what is compared

    @property
    def line(self) -> Node:
        """As it stands in the file; without evaluations and trials as files were before there were any."""
        return {key: value for key, value in vars(self).items() if key not in ("evaluations", "trial") or value}


def write_kept(path: Path, study: Mapping[str, Any], runs: list[KeptRun]) -> None:
    """Write a file of results, atomically. The same results make the same bytes.

    Args:
        study: `plan` and `interim_analyses`, as `KeptStudy` has them.

    Raises:
        UserError: there is a file of that name that is no file of results, it cannot be written, or would be larger
            than what is read again.
    """
    _check_replaceable(path)
    trials = sum(run.trial for run in runs)
    head = {"kept": _SCHEMA, "trials": trials} if trials else {"kept": 1}
    lines = [head | {"runs": len(runs) - trials, **study}, *(run.line for run in runs)]
    try:
        with replacing(Path(os.path.realpath(path))) as raw, lzma.open(raw, "wb") as file:
            size = 0
            for line in (json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines):
                size += len(line)
                if _too_large(line, size):  # for every reader, and the runs may be gone by then
                    raise UserError(
                        f"{path}: too large for one file of kept results: keep parts of the study by themselves"
                    )
                file.write(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def read_kept(path: Path) -> KeptStudy:
    """Return the results in the file `path`, which is read once as long as it does not change.

    Raises:
        UserError: it is not such a file, is damaged, cut short, too large, or of a later version of ablab.
    """
    try:
        file = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return _read(path, file.st_ino, file.st_mtime_ns, file.st_size)


def kept_runs(path: Path) -> Iterator[KeptRun]:
    """The runs in the file `path` as they were written, trials among them.

    Raises:
        UserError: as `read_kept`, which has looked through all of them before the first one.
    """
    read_kept(path)
    lines = _lines(path)
    next(lines)
    yield from (KeptRun(**known_fields(KeptRun, parse_json(line))) for line in lines)


def kept_curves(run: Path) -> str:
    """Return the learning curves of a run in a kept file, "" where it has none. `run` leads through the file."""
    file = next((place for place in (run, *run.parents) if os.path.isfile(place)), None)
    return "" if file is None else read_kept(file).curves.get(run.relative_to(file).as_posix(), "")


def is_kept(path: Path) -> bool:
    """Whether `path` is a file of results, as far as its beginning shows."""
    try:
        if not os.path.isfile(path):  # Path's own raises for names that are too long
            return False
        with path.open("rb") as packed:  # zeros, however many, would be looked through for the beginning of a file
            if packed.read(len(_PACKED)) != _PACKED:
                return False
        with lzma.open(path) as file:
            return file.read(len(_MARK)) == _MARK
    except _DAMAGE:
        return False


def why_no_folder(path: Path) -> str:
    """Return the line for `path` where a folder of runs is needed and there is none."""
    if is_kept(path):
        return f"{path}: kept results, for compare, report and load(); this needs the folder that they were made from"
    return f"{path}: no such folder"


def _check_replaceable(path: Path) -> None:
    if not path.name.endswith(SUFFIX):
        raise UserError(f"{path}: the name of a file of kept results ends in {SUFFIX}")
    if os.path.lexists(path) and not is_kept(path):
        raise UserError(f"{path}: is there already, and holds no kept results; choose another name")


@lru_cache(maxsize=32)
def _read(path: Path, *_version: int) -> KeptStudy:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; this takes a file of kept results ({SUFFIX}, by `ablab keep`)")
    if not is_kept(path):
        raise UserError(f"{path}: neither a folder of runs nor a file of kept results ({SUFFIX}, by `ablab keep`)")
    try:
        lines = _lines(path)
        head = parse_json(next(lines))
        if head["kept"] < 1:
            raise ValueError(f"kept: {head['kept']}")
        if head["kept"] > _SCHEMA:
            raise UserError(f"{path}: kept by a later version of ablab: upgrade ablab to read it")
        study = KeptStudy(
            plan=_typed(head["plan"], dict, None), interim_analyses=_typed(head["interim_analyses"], list)
        )
        trials = KeptStudy()
        for line in map(parse_json, lines):
            _add(trials if _typed(line, dict).get("trial") else study, line, path)
        for found, kind in ((study, "runs"), (trials, "trials")):
            if len(found.records) != head.get(kind, 0):
                raise ValueError(f"{len(found.records)} of {head.get(kind, 0)} {kind}")
        if shared := study.records.keys() & trials.records.keys():
            raise ValueError(f"two runs in {min(shared)!r}")
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged kept results ({_reason(error)})") from error
    return study


def _add(study: KeptStudy, line: Node, path: Path) -> None:
    folder = _typed(line["folder"], str)
    if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts or "\0" in folder:
        raise ValueError(f"a run outside the study: {folder!r}")
    if folder in study.records:
        raise ValueError(f"two runs in {folder!r}")
    study.records[folder] = record = as_record(line["record"], path / folder)
    for each in _typed(line.get("evaluations", []), list):
        evaluation = as_evaluation(each, path / folder, record.fingerprint)
        record.evaluations[evaluation.name] = evaluation
    if (curves := _typed(line["curves"], str, None)) is not None:
        study.curves[folder] = curves


def _typed(value: Any, *kinds: type | None) -> Any:
    if not any(value is None if kind is None else isinstance(value, kind) for kind in kinds):
        raise ValueError(f"{value!r:.60} is of another type")
    return value


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a compressed file. Raises UserError where they are more than any study has."""
    size = 0
    with lzma.open(path) as file:
        while line := file.readline(_LONGEST_LINE + 1):
            size += len(line)
            if _too_large(line, size):
                raise UserError(f"{path}: larger than any study, when it is unpacked")
            yield line


def _too_large(line: bytes, size: int) -> bool:
    return len(line) > _LONGEST_LINE or size > _LONGEST_FILE


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]}"
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
