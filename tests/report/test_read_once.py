"""Records are read once and compared once, however many views of a study are made from them."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from worlds import factorial, write

from ablab import load
from ablab.analysis.comparison import Comparisons
from ablab.report.commands import compare_command, report_command
from ablab.report.conclude import conclude
from ablab.report.dashboard.view import make_view
from ablab.results.store import METRICS_FILE, RECORD_FILE

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.usefixtures("_plain_figures"),
]

VIEWS: dict[str, Callable[[Path], object]] = {
    "conclusion": conclude,
    "compare": lambda folder: compare_command([folder]),
    "report": lambda folder: report_command([folder]),
    "dashboard": make_view,
    "notebook": lambda folder: load(folder).plot.curves(),
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write(tmp_path / "study", factorial(3))


@pytest.mark.parametrize("view", VIEWS)
def test_each_record_is_read_once_and_the_runs_are_compared_once(view: str, study: Path) -> None:
    opened, compared = _seen(view, study)
    read = {path: count for path, count in opened.items() if path.name == RECORD_FILE}
    assert len(read) == 18
    assert set(read.values()) == {1}
    assert compared == 1


def test_each_curve_is_read_once_by_a_conclusion(study: Path) -> None:
    read = [count for path, count in _seen("conclusion", study)[0].items() if path.name == METRICS_FILE]
    assert read
    assert set(read) == {1}


def _seen(view: str, study: Path) -> tuple[Counter[Path], int]:
    """How often each file was opened, and how many comparisons were made, for a view."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(_look, view, study).result()


def _look(view: str, study: Path) -> tuple[Counter[Path], int]:
    """In a process of its own, since what is asked of the interpreter itself it goes on doing, at each of its steps."""
    opened: Counter[Path] = Counter()

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):  # whichever function reads the file
            opened[Path(arguments[0])] += 1

    sys.addaudithook(count)
    with mock.patch.object(Comparisons, "__init__", autospec=True, side_effect=Comparisons.__init__) as compared:
        VIEWS[view](study)
    return opened, compared.call_count
