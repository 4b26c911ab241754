"""Texts with labels from tables: CSV, TSV and JSON lines. What is wrong with a row is said with its number."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablab.errors import UserError, one_line
from ablab.tasks.corpus import SourceFile

Row = dict[str, Any]  # of a table, by column
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*_SEPARATORS, ".jsonl")
# What the file of each split is called in a folder of them.
_NAMES = {"train": ("train",), "val": ("val", "validation", "dev"), "test": ("test",)}


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
    target = Path(path).expanduser()
    if target.is_dir():
        return {split: read_table(file, text_column, label_column) for split, file in _files(target).items()}
    if not target.is_file():
        raise UserError(f"{path}: no such file or folder in {Path.cwd()}: mend task.path")
    return {"": read_table(target, text_column, label_column)}


def read_table(path: Path, text_column: str, label_column: str) -> Table:
    """One file. Raises UserError as `read_tables` does."""
    try:
        data = path.read_bytes()
        content = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}): convert it") from error
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: of no known kind: give a file that ends in {', '.join(SUFFIXES)}")
    rows = _json_lines(path, content) if path.suffix == ".jsonl" else _separated(path, content)
    texts, labels = [], []
    for number, row in enumerate(rows, start=1):
        for column, setting in ((text_column, "text_column"), (label_column, "label_column")):
            if column not in row:
                names = ", ".join(map(str, row))
                raise UserError(f"{path}: row {number} has the columns {names}, not {column}: mend task.{setting}")
        texts.append(_text(path, number, text_column, row[text_column]))
        labels.append(_label(path, number, label_column, row[label_column]))
    if not texts:
        raise UserError(f"{path}: empty: give a file with rows in it")
    return Table(SourceFile(path.name, data), texts, labels)


def _files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split, names in _NAMES.items():
        files = [path for name in names for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
        if len(files) > 1:
            raise UserError(f"{folder}: both {files[0].name} and {files[1].name} may be the {split} split: keep one")
        if files:
            found[split] = files[0]
        elif split != "test":
            raise UserError(
                f"{folder}: no {split} split: give {' or '.join(names)} with one of the endings {', '.join(SUFFIXES)}"
            )
    return found


def _separated(path: Path, content: str) -> Iterator[Row]:
    try:
        frame = pd.read_csv(io.StringIO(content), sep=_SEPARATORS[path.suffix], dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        return
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a table ({one_line(error)}): mend that row") from error
    if not isinstance(frame.index, pd.RangeIndex):  # taken for names of rows
        raise UserError(f"{path}: its rows have more fields than its first line has names: quote them, or name all")
    yield from (dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None))


def _json_lines(path: Path, content: str) -> Iterator[Row]:
    """Line by line: pandas would turn text that looks like a date into one, and could not say which line is bad."""
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is not JSON ({one_line(error)}): mend it") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is no JSON object: mend it")
        yield row


def _text(path: Path, number: int, column: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{path}: row {number} has no text in {column} (it holds {value!r}): mend it or leave it out")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half of a character
        raise UserError(f"{path}: row {number} has half of a character in {column}: mend it or leave it out") from error
    return value


def _label(path: Path, number: int, column: str, value: Any) -> str:
    if isinstance(value, bool | int):
        return json.dumps(value)
    if not isinstance(value, str) or not value:
        raise UserError(f"{path}: row {number} has no label in {column} (it holds {value!r}): mend it or leave it out")
    return value
