"""Files to learn from: found, read, fingerprinted and split. Nothing depends on the order a disk lists them in."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import logging
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from ablab.errors import UserError
from ablab.tasks.content import text_of
from ablab.tasks.plain_files import once, read_plain

# Of the standard library: what is not its source, and what differs between machines of one Python version.
_STDLIB_SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"})
_MACHINE_PREFIXES = ("config-", "_sysconfigdata", "_sysconfig_vars", "sitecustomize", "usercustomize")

_MOST_FILES = 1_000_000  # of a folder; a disk as a whole has more

_CONTINUED = bytes(range(0x80, 0xC0))  # of UTF-8: bytes that begin no character

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceFile:
    """One file: its path relative to what was asked for, with forward slashes, and its content."""

    name: str
    data: bytes


def fingerprint(files: Iterable[SourceFile]) -> str:
    """SHA-256 over the names and contents of the files, in order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        for field in (file.name.encode("utf-8", errors="surrogateescape"), file.data):
            digest.update(len(field).to_bytes(8, "big"))  # so that no byte can move from a name into a content
            digest.update(field)
    return digest.hexdigest()


def read_stdlib(max_bytes: int | None) -> list[SourceFile]:
    """The source of the running interpreter's standard library, or at most `max_bytes` of it, sorted by path.

    Its tests are left out, and what differs between machines with one version of Python. Which files are kept is
    decided by a hash of their paths, so they are a sample of all of it, and a greater limit keeps all that a smaller
    one keeps.

    Raises:
        UserError: there is no source (a frozen or zipped interpreter), or no file is as small as `max_bytes`.
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in _walk(root, _is_library_source) if path.suffix == ".py"]
    paths.sort(key=lambda path: unit_hash("keep", path.relative_to(root).as_posix()))
    kept, size = [], 0
    for path in paths:
        size += path.stat().st_size
        if max_bytes is not None and size > max_bytes:
            break
        kept.append(path)
    if not kept:
        raise UserError(f"{root}: no Python source within task.max_bytes={max_bytes}: raise it, or use task=text")
    return sorted((_read(path, root) for path in kept), key=_name)


def read_path(path: str, *, any_bytes: bool, binary: bool = False) -> list[SourceFile]:
    """The file `path`, the text files below the folder `path`, or those that match the glob `path`, sorted by name.

    A relative path starts at the working directory. In a folder or a glob, hidden files and files that are not text
    are passed over, and how many is logged; a file that links lead to as well is there once. What runs write,
    `outputs` in the working directory, is no part of a folder above it.

    Args:
        any_bytes: whether a single file may hold any bytes but zero, not just UTF-8 text.
        binary: take its bytes as they are, packed ones and those of archives, too; else as `text_of` reads them.

    Raises:
        UserError: nothing is there, it is empty, cannot be read, or is not text.
    """
    target = Path(os.path.expanduser(path))
    if target.is_file():
        check_sizes(path, [target])
        files = [_read(target, target.parent)]
        if not (any_bytes and binary):
            files = [SourceFile(each.name, text_of(target, each.data)) for each in files]
            if b"\0" in files[0].data:  # as UTF-16 that does not say so
                how = "task.binary=true" if any_bytes else "task.tokenizer=bytes task.binary=true"
                raise UserError(f"{path}: holds zero bytes: convert it to UTF-8, or learn them by {how}")
        if not any_bytes and not _is_text(files[0].data):
            raise UserError(f"{path}: not UTF-8 text: convert it, or use task.tokenizer=bytes")
    elif target.is_dir():
        files = _read_text(path, _walk(target, _is_visible), target)
    else:
        matches = [Path(match) for match in glob.glob(str(target), recursive=True) if Path(match).is_file()]
        if not matches and target.exists():
            raise UserError(f"{path}: cannot be read (no plain file): give a file or a folder as task.path")
        if not matches:
            raise UserError(f"{path}: no such file, folder or match in {Path.cwd()}: mend task.path")
        root = Path(os.path.commonpath([match.parent for match in matches]))
        files = _read_text(path, matches, root)
    if not any(file.data for file in files):
        raise UserError(f"{path}: empty: give a file or folder with text in it")
    return files


def split_by_name(files: Sequence[SourceFile], val: float, test: float) -> dict[str, list[SourceFile]]:
    """The files by split: each goes where a hash of its own name says, so adding files moves no other.

    Args:
        val, test: expected shares of the files; the rest is train. There is no "test" where its share is 0.
    """
    splits: dict[str, list[SourceFile]] = {split: [] for split in _splits(test)}
    for file in files:
        position = unit_hash("split", file.name)
        splits["val" if position < val else "test" if position < val + test else "train"].append(file)
    return splits


def split_contiguously(text: NDArray[np.uint8], val: float, test: float) -> dict[str, NDArray[np.uint8]]:
    """The bytes of one long text by split: train is its head, then val, and test its tail. They touch, without overlap.

    No character of UTF-8 is cut: the whole of it is in the earlier split.

    Args:
        val, test: shares of the length; the rest is train. There is no "test" where its share is 0.
    """
    val_at, test_at = (_behind_character(text, int(len(text) * share)) for share in (1 - val - test, 1 - test))
    pieces = {"train": text[:val_at], "val": text[val_at:test_at], "test": text[test_at:]}
    return {split: pieces[split] for split in _splits(test)}


def _behind_character(text: NDArray[np.uint8], place: int) -> int:
    rest = text[place : place + 3].tobytes()  # of a character that began before the place, there are at most as many
    return place + len(rest) - len(rest.lstrip(_CONTINUED))


def checked_fractions(val: float, test: float) -> tuple[float, float]:
    """The shares of the splits, as they are. Raises ValueError if they are none, or leave nothing for training."""
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(
            f"task.val_fraction={val} and task.test_fraction={test} must be shares that leave some for training: "
            f"val above 0, test 0 or more, together below 1"
        )
    return val, test


def unit_hash(purpose: str, name: str) -> float:
    """A number in [0, 1) that depends on `purpose` and `name` alone, evenly distributed over names."""
    digest = hashlib.blake2b(f"{purpose}\0{name}".encode("utf-8", errors="surrogateescape"), digest_size=6)
    return int.from_bytes(digest.digest(), "big") / 2**48


def _splits(test: float) -> tuple[str, ...]:
    return ("train", "val", "test") if test else ("train", "val")


def _walk(root: Path, keep: Callable[[str], bool]) -> Iterator[Path]:
    """Every file below `root` whose own name, and those of its folders, `keep` keeps; no dangling links and pipes."""
    for folder, folders, names in os.walk(root):
        folders[:] = filter(keep, folders)  # in place: os.walk goes down what is left, and site-packages is large
        yield from (path for name in filter(keep, names) if (path := Path(folder, name)).is_file())


def _is_library_source(name: str) -> bool:
    return name not in _STDLIB_SKIPPED and not name.startswith(_MACHINE_PREFIXES)


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def check_sizes(path: str, files: Sequence[Path]) -> None:
    """Raises UserError where the files that `path` names are far more than this machine could hold.

    A folder of a whole disk would be read for hours before that is seen.
    """
    has, size = psutil.virtual_memory().total, 0
    for each in files:
        with contextlib.suppress(OSError):  # of which reading it will tell
            size += each.stat().st_size
    if size > has:
        raise UserError(
            f"{path}: {size / 2**30:,.0f} GiB, more than the {has / 2**30:,.0f} GiB of memory that this machine has: "
            "give a smaller file or folder"
        )


def _read(path: Path, root: Path) -> SourceFile:
    try:
        return SourceFile(path.relative_to(root).as_posix(), read_plain(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _read_text(path: str, found: Iterable[Path], root: Path) -> list[SourceFile]:
    """Those of the files `found` that are text, by name."""
    kept, passed_over = [], 0
    every = list(itertools.islice(found, _MOST_FILES + 1))
    if len(every) > _MOST_FILES:
        raise UserError(f"{path}: more than {_MOST_FILES:,} files: give a folder of texts alone")
    every = once(every, root)
    check_sizes(path, every)
    for file in (_read(each, root) for each in every):
        data = _text_of(root / file.name, file.data)
        if data is None:
            passed_over += 1
        else:
            kept.append(SourceFile(file.name, data))
    if passed_over and not kept:
        raise UserError(f"{path}: none of its {passed_over} files is UTF-8 text: give a folder or glob of text files")
    if passed_over:
        _log.warning("%s: passed over %d files that are not UTF-8 text", path, passed_over)
    return sorted(kept, key=_name)


def _text_of(path: Path, data: bytes) -> bytes | None:
    try:
        text = text_of(path, data)
    except UserError:  # an archive, a picture
        return None
    return text if _is_text(text) else None


def _name(file: SourceFile) -> str:
    return file.name
