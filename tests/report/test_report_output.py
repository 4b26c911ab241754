"""Where a report is written: over an earlier one, and over nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from synthetic import record

from ablab.errors import UserError
from ablab.report.commands import report_command
from ablab.results.store import write_record

pytestmark = pytest.mark.usefixtures("_plain_figures")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_record(tmp_path / "study" / "run", record(1))
    return tmp_path / "study"


def test_an_earlier_report_and_an_empty_file_are_replaced(study: Path) -> None:
    path = report_command([study])
    before = path.stat().st_ino
    assert report_command([study]) == path
    assert path.stat().st_ino != before
    path.write_text("")
    report_command([study])
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_a_link_is_written_through(study: Path, tmp_path: Path) -> None:
    """As /dev/stdout is one, which a report of its own would take from every other program."""
    (tmp_path / "site").mkdir()
    page, link = tmp_path / "site" / "report.html", tmp_path / "link.html"
    page.touch()
    link.symlink_to(page)
    assert report_command([study], output=link) == link
    assert link.is_symlink()
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_a_link_that_lies_in_the_folder_is_replaced(study: Path, tmp_path: Path) -> None:
    """Nobody has named it, and the folder may be a stranger's."""
    outside, link = tmp_path / "empty", study / "report.html"
    outside.touch()
    link.symlink_to(outside)
    report_command([study])
    assert not link.is_symlink()
    assert outside.read_text() == ""


@pytest.mark.parametrize("kind", ["folder", "record", "page", "fifo", "nowhere"])
def test_nothing_else_is(study: Path, tmp_path: Path, kind: str) -> None:
    path = study / "run" / "record.json" if kind == "record" else tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "page":
        path.write_text("<!DOCTYPE html><title>mine</title>")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "nowhere":
        path.symlink_to(tmp_path / "gone")
    before = path.lstat()
    with pytest.raises(UserError, match="is left as it is; give another --output"):
        report_command([study], output=path)
    assert path.lstat().st_mtime_ns == before.st_mtime_ns
    assert path.lstat().st_ino == before.st_ino
