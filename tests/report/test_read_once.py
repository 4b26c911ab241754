"""Records are read once and compared once, however many views of a study are made from them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from worlds import factorial, write

from ablab import load
from ablab.analysis.comparison import Comparisons
from ablab.report.commands import compare_command, report_command
from ablab.report.conclude import conclude
from ablab.report.dashboard.view import make_view
from ablab.results.store import METRICS_FILE, RECORD_FILE

_opened: Counter[Path] | None = None


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str):
        _opened[Path(arguments[0])] += 1


sys.addaudithook(_count)  # of the interpreter itself: whichever function reads a file


@pytest.fixture
def opened() -> Iterator[Counter[Path]]:
    """How often each file has been opened."""
    global _opened
    _opened = Counter()
    yield _opened
    _opened = None


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[Comparisons]:
    """The comparisons that have been made."""
    made: list[Comparisons] = []
    whole = Comparisons.__init__

    def counting(self: Comparisons, *arguments: Any, **named: Any) -> None:
        made.append(self)
        whole(self, *arguments, **named)

    monkeypatch.setattr(Comparisons, "__init__", counting)
    return made


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write(tmp_path / "study", factorial(3))


pytestmark = pytest.mark.usefixtures("_plain_figures")

VIEWS: dict[str, Callable[[Path], object]] = {
    "conclusion": conclude,
    "compare": lambda folder: compare_command([folder]),
    "report": lambda folder: report_command([folder]),
    "dashboard": make_view,
    "notebook": lambda folder: load(folder).plot.curves(),
}


@pytest.mark.parametrize("view", VIEWS)
def test_each_record_is_read_once_and_the_runs_are_compared_once(
    view: str, study: Path, opened: Counter[Path], compared: list[Comparisons]
) -> None:
    VIEWS[view](study)
    read = {path: count for path, count in opened.items() if path.name == RECORD_FILE}
    assert len(read) == 18
    assert set(read.values()) == {1}
    assert len(compared) == 1


def test_each_curve_is_read_once_by_a_conclusion(study: Path, opened: Counter[Path]) -> None:
    conclude(study)
    read = [count for path, count in opened.items() if path.name == METRICS_FILE]
    assert read
    assert set(read) == {1}
