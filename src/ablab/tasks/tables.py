"""Texts with labels from tables: CSV, TSV, JSON and JSON lines. What is wrong with a row is said with its number."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pandas as pd

from ablab.errors import UserError, one_line
from ablab.tasks.content import plain_suffix, text_of
from ablab.tasks.corpus import SourceFile, check_sizes
from ablab.tasks.plain_files import read_plain

Row = dict[str, Any]  # of a table, by column
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")  # in any case, and packed: .csv.gz
# What the file of each split is called in a folder of them.
_NAMES = {"train": ("train",), "val": ("val", "validation", "dev"), "test": ("test",)}

_NO_JSON = (ValueError, RecursionError)  # the latter of what is nested without end


@dataclass(frozen=True)
class Table:
    """Texts and their labels, as many of both, and the file that they are from."""

    file: SourceFile
    texts: list[str]
    labels: list[str]


def read_tables(path: str, text_column: str, label_column: str) -> dict[str, Table]:
    """The tables below `path` by split; a single file, which is yet to be split, by the name "".

    Args:
        path: a file with one of the `SUFFIXES`, or a folder with one file of each split: `train`, `val` (or
            `validation`, or `dev`) and, if there is one, `test`.

    Raises:
        UserError: nothing is there, a file or a row of it cannot be used, or a column is missing.
    """
    target = Path(os.path.expanduser(path))
    if target.is_dir():
        return {split: read_table(file, text_column, label_column) for split, file in _files(target).items()}
    if not target.exists():
        raise UserError(f"{path}: no such file or folder in {Path.cwd()}: mend task.path")
    return {"": read_table(target, text_column, label_column)}


def read_table(path: Path, text_column: str, label_column: str) -> Table:
    """One file. Raises UserError as `read_tables` does."""
    try:
        check_sizes(str(path), [path])
        data = read_plain(path)
        content = text_of(path, data).decode()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}): convert it") from error
    if (suffix := plain_suffix(path)) not in _READERS:
        raise UserError(f"{path}: of no known kind: give a file that ends in {', '.join(SUFFIXES)}")
    rows = _READERS[suffix](path, content)
    texts, labels = [], []
    for number, row in enumerate(rows, start=1):
        for column, setting in ((text_column, "text_column"), (label_column, "label_column")):
            if column not in row:
                raise _no_column(path, number, row, column, setting)
        if (row[text_column], row[label_column]) == (text_column, label_column):
            raise UserError(f"{path}: row {number} is the header once more: leave it out")
        texts.append(_text(path, number, text_column, row[text_column]))
        labels.append(_label(path, number, label_column, row[label_column]))
    if not texts:
        raise UserError(f"{path}: empty: give a file with rows in it")
    return Table(SourceFile(path.name, data), texts, labels)


def _no_column(path: Path, number: int, row: Row, column: str, setting: str) -> UserError:
    names = list(map(str, row))
    same = next((name for name in names if name.strip().casefold() == column.strip().casefold()), None)
    shown = ", ".join(name if name.strip() == name else repr(name) for name in names)
    meant = f"mend task.{setting}" if same is None else f"did you mean task.{setting}={_quoted(same)}?"
    return UserError(f"{path}: row {number} has the columns {shown}, not {column}: {meant}")


def _quoted(name: str) -> str:
    return name if name.strip() == name else repr(name)


def _files(folder: Path) -> dict[str, Path]:
    there = sorted(path for path in folder.iterdir() if path.is_file() and plain_suffix(path) in SUFFIXES)
    found: dict[str, Path] = {}
    for split, names in _NAMES.items():
        files = [path for name in names for path in there if path.name.split(".")[0].lower() == name]
        if len(files) > 1:
            raise UserError(f"{folder}: both {files[0].name} and {files[1].name} may be the {split} split: keep one")
        if files:
            found[split] = files[0]
        elif split != "test":
            raise UserError(
                f"{folder}: no {split} split: give {' or '.join(names)} with one of the endings {', '.join(SUFFIXES)}"
            )
    return found


def _comma_separated(path: Path, content: str) -> Iterator[Row]:
    try:
        frame = pd.read_csv(io.StringIO(content), dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        return
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a table ({one_line(error)}): mend that row") from error
    if not isinstance(frame.index, pd.RangeIndex):  # taken for names of rows
        raise UserError(f"{path}: its rows have more fields than its first line has names: quote them, or name all")
    _check_quotes(path, content)
    yield from (dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None))


def _check_quotes(path: Path, content: str) -> None:
    """Raises UserError for text behind a closing quote: the quotes are then its own, and may have joined rows."""
    if '"' not in content:
        return
    csv.field_size_limit(sys.maxsize)  # of a text, which may be long
    rows, number = filter(None, csv.reader(io.StringIO(content, newline=""), strict=True)), -1
    try:
        for number, _ in enumerate(rows):  # noqa: B007 (the header is row 0)
            pass
    except csv.Error as error:
        raise UserError(
            f"{path}: row {number + 1} has text behind a closing quote ({one_line(error)}): put its texts in quotes, "
            'and write each quote within them as ""'
        ) from error


def _tab_separated(path: Path, content: str) -> Iterator[Row]:
    """Quotes count where they are as a writer of tables sets them. Where one is not, all are characters of the text.

    So a stray one joins no lines: each line is a row then.
    """
    old = "\n" not in content  # lines then end as on a Macintosh of old; else such an end is one of a text's characters
    lines = content.replace("\r" if old else "\r\n", "\n").split("\n")
    csv.field_size_limit(sys.maxsize)  # of a text, which may be long
    try:
        rows = [row for row in csv.reader((f"{line}\n" for line in lines), delimiter="\t", strict=True) if row]
    except csv.Error:
        rows = []
    plain = [line.split("\t") for line in lines if line.strip()]
    if not plain:
        return
    joined = len(rows) < len(plain) and '"' not in lines[0]  # a file that quotes everything says so in its first line
    if not rows or (joined and all(len(row) == len(plain[0]) for row in plain)):
        rows = plain
    header = rows[0]
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise UserError(
                f"{path}: row {number} has {len(row)} fields, its first line names {len(header)}: mend that row"
            )
        yield dict(zip(header, row, strict=True))


def _json(path: Path, content: str) -> Iterator[Row]:
    """A list of objects; or what is one object a line, as other programs write under this name, too."""
    try:
        rows = json.loads(content)
    except _NO_JSON as error:
        if not content.lstrip().startswith("{"):
            raise UserError(f"{path}: not JSON ({one_line(error)}): mend it") from error
        yield from _json_lines(path, content)
        return
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: not a list of JSON objects: give one, each with a text and its label")
    yield from rows


def _json_lines(path: Path, content: str) -> Iterator[Row]:
    """Line by line: pandas would turn text that looks like a date into one, and could not say which line is bad."""
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except _NO_JSON as error:
            raise UserError(f"{path}: line {number} is not JSON ({one_line(error)}): mend it") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is no JSON object: mend it")
        yield row


_READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
}


def _text(path: Path, number: int, column: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{path}: row {number} has no text in {column} (it holds {value!r}): mend it or leave it out")
    return _whole(path, number, column, value)


def _label(path: Path, number: int, column: str, value: Any) -> str:
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    if not isinstance(value, str) or not value:
        raise UserError(f"{path}: row {number} has no label in {column} (it holds {value!r}): mend it or leave it out")
    return _whole(path, number, column, value)


def alike(labels: Iterable[str]) -> tuple[str, str] | None:
    """Two different labels, the first such, that are one but for spaces around them or how a number is written."""
    seen: dict[str | Decimal, str] = {}
    for label in labels:
        if (other := seen.setdefault(_meant(label), label)) != label:
            return other, label
    return None


def _meant(label: str) -> str | Decimal:
    try:
        number = Decimal(label)
    except InvalidOperation:
        return label.strip()
    return number if number.is_finite() else label.strip()


def _whole(path: Path, number: int, column: str, value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half of a character
        raise UserError(f"{path}: row {number} has half of a character in {column}: mend it or leave it out") from error
    return value
