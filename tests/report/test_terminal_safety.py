"""Names and reasons may be anybody's: none of them speaks to a terminal, a spreadsheet or a browser."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import ended, record

from ablab.analysis.comparison import ComparisonSettings
from ablab.cli.application import fail
from ablab.errors import printable
from ablab.report.commands import compare_command, report_command
from ablab.results.store import write_record

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
EVIL = "\x1b]0;owned\x07\x9b31m\u202e<script>alert(1)</script>"
TERMS: ComparisonSettings = {"baseline": None, "metric": None, "margin": None, "last_k": None}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants, one of an evil name that begins like a formula, and a run that failed for an evil reason."""
    folder = tmp_path_factory.mktemp("study")
    formula = f"=1+cmd|' /C calc'!A0{EVIL}"
    for seed in (1, 2):
        write_record(folder / f"a{seed}", record(seed, 1.0 + seed / 10))
        write_record(folder / f"b{seed}", record(seed, 1.2 + seed / 7, axes={"activation": formula}, study=EVIL))
    write_record(folder / "c", ended("failed", f"@SUM(A1) {EVIL}", 3))
    return folder


@pytest.mark.parametrize("format", ["terminal", "csv", "markdown", "json", "latex"])
def test_no_format_speaks_to_a_terminal(study: Path, format: str) -> None:
    text = compare_command([study], [], format, None, **TERMS)
    assert "SUM(A1)" in text
    assert not CONTROL.search(text)


def test_no_cell_is_a_formula(study: Path) -> None:
    rows = list(csv.reader(io.StringIO(compare_command([study], [], "csv", None, **TERMS))))
    cells = [cell for row in rows for cell in row]
    assert any(cell.startswith("'@SUM") for cell in cells)
    for cell in cells:
        if cell.startswith(("=", "+", "-", "@")):
            float(cell)  # a number, which stays one


def test_no_name_is_a_script(study: Path, tmp_path: Path) -> None:
    report_command([study], [], tmp_path / "report.html", **TERMS)
    assert "<script>alert" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@given(st.text())
def test_nothing_printable_is_obeyed(text: str) -> None:
    shown = printable(text)
    assert not CONTROL.search(shown)
    assert len(shown) == len(text)
    assert CONTROL.search(text) or shown == text


def test_an_error_is_printed_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail(f"{EVIL}: no such file")
    assert not CONTROL.search(capsys.readouterr().err)
