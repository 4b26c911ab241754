"""A run's folder: whether it is ours, how it is emptied for another run, and what of it is damaged."""

from __future__ import annotations

import copy
import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ablab.config import RunConfig, fingerprint
from ablab.config.yaml_text import from_yaml
from ablab.errors import UserError, one_line
from ablab.results.record import Record
from ablab.results.store import (
    ANNEAL_FOLDER,
    CHECKPOINT_FOLDER,
    CHECKSUM_FILE,
    CONFIG_FILE,
    EVALUATION_FOLDER,
    LOG_FILE,
    METRICS_FILE,
    PICTURE_FOLDER,
    PLAN_FILE,
    PROFILE_FOLDER,
    RECORD_FILE,
    WANDB_ID_FILE,
    parse_json,
    remove,
)

DAMAGED_FOLDER = "damaged"  # "damaged-1", ...: what an attempt left whose config can no longer be read
_PROFILES = (f"{PROFILE_FOLDER}/*profile-*.txt", f"{PROFILE_FOLDER}/*profile-*.json")
_EVENTS = "events.out.tfevents.*"
_OF_STUDIES = ".experiment"  # how the event file of a study ends, which may lie in the same folder
_WEIGHTS = ("last.ckpt", "previous.ckpt", "best.ckpt", "last.full.ckpt", "best.full.ckpt", CHECKSUM_FILE)
# What runs write. The config, by which a folder is known to be ours, comes last.
_WRITTEN = (
    *(RECORD_FILE, METRICS_FILE, LOG_FILE, WANDB_ID_FILE, _EVENTS, f"{PICTURE_FOLDER}/*.png", *_PROFILES),
    *(f"{CHECKPOINT_FOLDER}/{name}" for name in _WEIGHTS),
    *(f"{CHECKPOINT_FOLDER}/{ANNEAL_FOLDER}", f"{EVALUATION_FOLDER}/*.json"),
    CONFIG_FILE,
)
_MARKS = ("\nlayer_fusion:", "\nmodal_fusion:", "\nhang_timeout:")  # keys of a config that no other program has
_CUT_PLAN = re.compile(r'\s*(\Z|\{\s*"schema":\s*\d+,\s*"command":)')  # how one of ours begins, or nothing
_LONGEST_CONFIG, _MOST_BRACKETS = 2**22, 3000
_LARGEST = 2**28  # bytes of a checkpoint that is compared when a finished run is met again; others when they are used


def check_ours(folder: Path) -> None:
    """Raises UserError if `folder` cannot be a run's folder: it is a file, or holds such files of another program."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file is in the way of the run's folder; choose another name=...")
    others = [name for name in (*_WRITTEN, CHECKPOINT_FOLDER) if _found(folder, name)]
    if others and not _is_ours(folder):
        first = next(iter(_found(folder, others[0]))).relative_to(folder)
        raise UserError(f"{folder}: holds {first}, which no run of ablab wrote; choose another name=...")


def _found(folder: Path, name: str) -> list[Path]:
    return [path for path in folder.glob(name) if not path.name.endswith(_OF_STUDIES)]


def _is_ours(folder: Path) -> bool:
    """Whether one of the files by which a run is known says so, damaged though the others may be."""
    config = "\n" + _text(folder / CONFIG_FILE)
    return (
        "\naxes:" in config
        or sum(mark in config for mark in _MARKS) > 1  # what damage has left of one
        or _holds(folder / RECORD_FILE, "fingerprint", "schema")
        or _holds(folder / CHECKPOINT_FOLDER / CHECKSUM_FILE, "corpus", "sha256")
    )


def _holds(path: Path, *keys: str) -> bool:
    """Whether there is JSON of ours in `path`, even in part."""
    text = _text(path)
    return all(f'"{key}":' in text for key in keys)


def _text(path: Path) -> str:
    """What is in a file; "" where there is none, or a pipe, which would be waited for."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def check_study(folder: Path) -> None:
    """Raises UserError if `folder` cannot be a study's, since another program's plan lies there.

    One of ours that is empty, or was cut, is taken over, as the plan is written anew.
    """
    path = folder / PLAN_FILE
    ours = path.is_file() and (_CUT_PLAN.match(_text(path)) or _holds(path, "schema", "runs"))
    if path.is_dir() or (path.exists() and not ours):
        raise UserError(f"{path}: is no plan of ablab's; choose another name=...")


def clear(folder: Path) -> None:
    """Remove what an earlier run left in its folder, the record first. Files that no run writes are kept.

    Raises:
        UserError: as `check_ours` does; nothing has been removed.
    """
    check_ours(folder)
    for name in _WRITTEN:
        for path in _found(folder, name):
            remove(path)


def set_aside(folder: Path) -> Path:
    """Move what an earlier attempt left in a run's folder into a folder of its own within, and return that.

    Raises:
        UserError: as `check_ours` does; nothing has been moved.
    """
    check_ours(folder)
    aside = next(path for number in range(1, 10_000) if not (path := folder / f"{DAMAGED_FOLDER}-{number}").exists())
    for path in [path for name in _WRITTEN for path in _found(folder, name)]:
        target = aside / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return aside


def read_config(folder: Path) -> RunConfig:
    """Return the config of the run in `folder`, as data: nothing that it names is imported.

    Raises:
        UserError: there is none, or it is damaged; the message names the file.
    """
    path = folder / CONFIG_FILE
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: damaged, no config of a run (it is no file)")
    try:
        text = path.read_text(encoding="utf-8")
        data = copy.deepcopy(_parsed(text))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged, no config of a run ({_why(error)})") from error
    return as_config(data, path)


@lru_cache(maxsize=128)  # one file is read several times in a row, by all who ask whether its run is whole
def _parsed(text: str) -> Any:
    _refuse_endless(text)
    return from_yaml(text)


def as_config(data: Any, path: Path) -> RunConfig:
    """Return the config of a run in `data`, which was read from `path`. Raises UserError where it is none."""
    try:
        config = RunConfig.from_dict(data)
        fingerprint(config)
        config.trainer, config.processes  # noqa: B018 (reading them is the check)
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged, no config of a run ({_why(error)})") from error
    if missing := [key for key in ("seed", "axes", *config.axes) if key not in data]:
        raise UserError(f"{path}: damaged, no config of a run (it has no {missing[0]})")
    if type(config.seed) is not int or not _are_texts(config.axes):
        raise UserError(f"{path}: damaged, no config of a run (seed={config.seed!r:.40}, axes={config.axes!r:.40})")
    return config


_DAMAGE = (
    *(ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError, MemoryError),
    *(UserError, yaml.YAMLError),
)


def _refuse_endless(text: str) -> None:
    """No config has a thousand brackets, which take hours to be parsed where each is within the one before."""
    if len(text) > _LONGEST_CONFIG or text.count("[") + text.count("{") > _MOST_BRACKETS:
        raise ValueError("it is longer than any")


def _are_texts(axes: Any) -> bool:
    return isinstance(axes, dict) and bool(axes) and all(isinstance(each, str) for each in [*axes, *axes.values()])


def _why(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    return one_line(error, 120)


def damage_of(folder: Path, record: Record) -> list[str]:
    """Return what of a run that has finished is damaged, in words; its record stands all the same.

    Checkpoints of more than 256 MiB are left to whoever reads them.
    """
    found = []
    try:
        if fingerprint(read_config(folder)) != record.fingerprint:
            found.append(f"{CONFIG_FILE} is damaged (it is that of another run)")
    except UserError:
        found.append(f"{CONFIG_FILE} is damaged")
    if record.curves_sha256 and _sha256(folder / METRICS_FILE) != record.curves_sha256:
        found.append(f"{METRICS_FILE} is damaged")
    return found + _damaged_weights(folder / CHECKPOINT_FOLDER)


def _damaged_weights(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    try:
        listed = listed_checksums(folder)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError):
        return [f"{CHECKPOINT_FOLDER}/{CHECKSUM_FILE} is damaged"]
    path = folder / "last.ckpt"
    whole = path.is_dir() or not path.exists() or path.stat().st_size > _LARGEST or _sha256(path) in listed
    return [] if whole else [f"{CHECKPOINT_FOLDER}/{path.name} is damaged"]


def listed_checksums(checkpoints: Path) -> set[str]:
    """The checksums of the checkpoints that are listed in their folder.

    Raises:
        FileNotFoundError: there is no list.
        OSError, ValueError, TypeError, KeyError: it cannot be read.
    """
    return {entry["sha256"] for entry in parse_json((checkpoints / CHECKSUM_FILE).read_bytes())}


def curves_sha256(folder: Path) -> str | None:
    """Return the checksum of a run's learning curves; None where it has none."""
    return _sha256(folder / METRICS_FILE)


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
