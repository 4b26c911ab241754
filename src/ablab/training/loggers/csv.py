"""The learning curves of a run as `metrics.csv`: a row for each thing logged, so several of one step.

Lightning's own CSVLogger wants folders of versions, deletes an earlier file and holds rows back; a curve must survive
a crash, and a resume must continue it.
"""

from __future__ import annotations

import csv
import io
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ablab.results.record import Status
from ablab.results.store import METRICS_FILE, remove, write_atomically
from ablab.training.loggers.base import EndsWithStatus, KeepsCurves

_FIRST_COLUMNS = ("step", "epoch")


class CurvesLogger(Logger, EndsWithStatus, KeepsCurves):
    """Appends each row to `folder`/metrics.csv at once, so that a killed run leaves all but the last.

    The header grows when a new metric comes; the file is then replaced as a whole, atomically. A file that is there
    already is continued: what is logged again (the steps between the last checkpoint and the crash) replaces what
    was there, since it is the same computation.

    Args:
        every: steps from one row to the next, by which lost ones are noticed; None: they are not.
    """

    def __init__(self, folder: Path, every: int | None = None) -> None:
        super().__init__()
        self._path, self._every = folder / METRICS_FILE, every
        self._columns: list[str] = []
        self._earlier: set[int] = set()  # steps that an earlier attempt logged, and that may be logged again
        self._file: TextIO | None = None

    @property
    def name(self) -> str:
        return ""  # Lightning joins folder, name and version into paths

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Append a row. Raises ValueError without a step."""
        if step is None:
            raise ValueError("learning curves need a step: log through the Trainer")
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        new = [name for name in ("step", *row) if name not in self._columns]
        if self._file is None or new or step in self._earlier:
            begins = self._file is None
            rows = self._read()
            if begins:
                rows = [old for old in rows if int(old["step"]) <= step]
                self._earlier = {int(old["step"]) for old in rows}
            if step in self._earlier:
                rows = [old for old in rows if int(old["step"]) != step or not _same_metric(old, row)]
            self._rewrite(rows, new)
        assert self._file is not None
        self._writer(self._file).writerow({**row, "step": step})
        self._file.flush()

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the folder holds the config."""

    def close(self, status: Status) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def check(self, step: int) -> list[str]:
        """The file is rewritten with the rows that can be read; one that is damaged is kept under another name."""
        return self._check(step) or []

    @rank_zero_only
    def _check(self, step: int) -> list[str]:
        if not step and not self._path.exists():
            return []
        rows, damaged = self._whole_rows()
        found = {int(row["step"]) for row in rows}
        # Those of a run that went on from another's checkpoint begin with the first that it took itself.
        lost = self._lost(found, 0 if damaged or not found else min(found), step)
        if not damaged and not lost:
            return []
        line = f"{METRICS_FILE} was damaged: " + (
            f"the rows of {lost} are lost" if lost else f"{damaged} rows are lost"
        )
        if self._path.exists():
            aside = self._path.with_name(f"{self._path.stem}.damaged{self._path.suffix}")
            remove(aside)
            self._path.rename(aside)
            line += f"; what was there lies in {aside.name}"
        if rows:
            self._rewrite(rows, [])
        return [line]

    def _lost(self, found: set[int], first: int, step: int) -> str:
        """In words, the steps from `first` to `step` that must have had a row and have none."""
        due = range(self._every, step + 1, self._every) if self._every else ()
        lost = [each for each in due if each >= first and each not in found]
        return f"steps {lost[0]} to {lost[-1]}" if len(lost) > 1 else f"step {lost[0]}" if lost else ""

    def _whole_rows(self) -> tuple[list[dict[str, str]], int]:
        """The rows that can be read, and how many others there are."""
        try:
            rows = self._read()
        except (OSError, csv.Error):  # a folder in its place, a cell without end
            return [], 1
        if rows and "step" not in self._columns:
            self._columns = []
            return [], len(rows)
        whole = [row for row in rows if _is_whole(row)]
        return whole, len(rows) - len(whole)

    def _read(self) -> list[dict[str, str]]:
        """The rows that are in the file; adopts its columns. A last row that was cut off by a crash is left out."""
        if self._file is not None:
            self._file.close()
        if not self._path.exists():
            return []
        text = self._path.read_text(encoding="utf-8", errors="replace")
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        rows = list(reader)
        self._columns = list(reader.fieldnames or [])
        return rows

    def _rewrite(self, rows: list[dict[str, str]], new: list[str]) -> None:
        names = [*self._columns, *(name for name in new if name not in self._columns)]
        self._columns = sorted(names, key=lambda name: (name not in _FIRST_COLUMNS, _first(name)))
        buffer = io.StringIO(newline="")
        writer = self._writer(buffer)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self._path, buffer.getvalue())
        self._file = self._path.open("a", encoding="utf-8", newline="")

    def _writer(self, file: TextIO) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self._columns, restval="", lineterminator="\n")


def _is_whole(row: Mapping[Any, Any]) -> bool:
    """Whether a row has a cell for each column, a step that is a whole number, and else numbers or nothing."""
    if None in row or not all(isinstance(cell, str) for cell in row.values()) or not row["step"].isdecimal():
        return False
    try:
        return all(not cell or math.isfinite(float(cell)) or cell in _NOT_FINITE for cell in row.values())
    except ValueError:
        return False


_NOT_FINITE = ("nan", "inf", "-inf")  # as Python writes them


def _first(name: str) -> int:
    return _FIRST_COLUMNS.index(name) if name in _FIRST_COLUMNS else len(_FIRST_COLUMNS)


def _same_metric(old: Mapping[str, str], new: Mapping[str, float]) -> bool:
    return any(old.get(name) for name in new if name not in _FIRST_COLUMNS)
