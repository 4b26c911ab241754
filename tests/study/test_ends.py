"""How commands end where something is in the way: another process, other data, a full disk, too few processes."""

from __future__ import annotations

import errno
import functools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ablab.report.html import page
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.supervision import attempt
from ablab.study.supervision.lock import run_lock

if TYPE_CHECKING:
    from conftest import Lab

pytestmark = pytest.mark.slow

STUDY = ("name=ends", "activation=relu,gelu", "trainer.max_steps=2")
OTHER_RATE = "optimizer.lr=0.002"  # makes other runs
RELU, GELU = (Path(f"outputs/ends/activation={option}/seed=0") for option in ("relu", "gelu"))


@pytest.fixture(scope="module")
def text(lab: Lab) -> Path:
    """The data of a finished study of two runs."""
    path = lab.folder / "mine.txt"
    shutil.copy(lab.corpus, path)
    ended = lab.sweep(*STUDY, f"task.path={path}")
    assert (ended.status, ended.err) == (0, "")
    return path


def changed(path: Path, text: str) -> str:
    before = path.read_text(encoding="utf-8")
    path.write_text(before + text, encoding="utf-8")
    return before


def test_a_run_that_another_process_works_on_is_a_row_and_no_success(
    lab: Lab, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both where a study goes on, and where its command is given again."""
    monkeypatch.setattr(attempt, "run_lock", functools.partial(run_lock, wait_s=0.0))
    (lab.folder / GELU / RECORD_FILE).unlink()
    for words in (["resume", "outputs/ends"], lab.words("-m", *STUDY, f"task.path={text}")):
        with run_lock(lab.folder / GELU):
            ended = lab.ablab(*words)
        assert ended.status == 1
        assert [run[0] for run in ended.runs] == ["kept", "interrupted"]
        assert ended.err == "ablab: 1 of 2 runs did not end well; see the run health\n"
        record = read_record(lab.folder / GELU / RECORD_FILE)
        assert (record.status, record.cause) == ("interrupted", None)
        assert str(record.reason).endswith("seed=0: another process works on this run; wait for it, or end it")
    ended = lab.ablab("resume", "outputs/ends")
    assert (ended.status, [run[0] for run in ended.runs]) == (0, ["kept", "ok"])


def test_a_study_does_not_go_on_with_other_data(lab: Lab, text: Path) -> None:
    """And loses nothing: what is finished stays, and what is not goes on when the data are back."""
    (lab.folder / GELU / RECORD_FILE).unlink()
    kept = (lab.folder / RELU / RECORD_FILE).read_bytes()
    before = changed(text, "One line more.\n")
    try:
        ended = lab.ablab("resume", "outputs/ends")
        assert ended.status == 2
        assert ended.err.startswith(f"ablab: error: {lab.folder}/outputs/ends: {text}: the data have changed since ")
        assert len(ended.err.splitlines()) == 1
        assert (lab.folder / RELU / RECORD_FILE).read_bytes() == kept
        text.unlink()
        gone = lab.ablab("resume", "outputs/ends")
        assert gone.status == 2
        assert gone.err.startswith("ablab: error: ")
        assert str(text) in gone.err
        assert len(gone.err.splitlines()) == 1
    finally:
        text.write_text(before, encoding="utf-8")
    assert [run[0] for run in lab.ablab("resume", "outputs/ends").runs] == ["kept", "ok"]


def test_a_report_that_cannot_be_written_costs_no_metrics(
    lab: Lab, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def raises(*_: object) -> None:
        raise ZeroDivisionError("in a template")

    kept = (lab.folder / RELU / RECORD_FILE).read_bytes()
    for fault, words, command in (
        (full, "[Errno 28] No space left on device", ["resume", "outputs/ends"]),
        (raises, "in a template", lab.words("-m", *STUDY, f"task.path={text}")),
    ):
        monkeypatch.setattr(page, "write_report", fault)
        ended = lab.ablab(*command)
        assert ended.status == 2
        assert ended.err.endswith(f"outputs/ends/report.html: {words}\n")
        assert len(ended.err.splitlines()) == 1
        assert "activation=gelu" in ended.out, "the comparison is not shown"
    assert (lab.folder / RELU / RECORD_FILE).read_bytes() == kept


def test_data_that_change_while_a_study_is_under_way(lab: Lab, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its plan was made and before its last run has read them."""
    begin, before = attempt.prepare_folder, text.read_text(encoding="utf-8")

    def edited(config: object, folder: Path) -> None:
        if "gelu" in str(folder):
            changed(text, "One line more.\n")
        begin(config, folder)  # type: ignore[arg-type]

    monkeypatch.setattr(attempt, "prepare_folder", edited)
    try:
        ended = lab.sweep(*STUDY, f"task.path={text}", OTHER_RATE)
    finally:
        text.write_text(before, encoding="utf-8")
    assert ended.status == 1
    assert [run[0] for run in ended.runs] == ["ok", "interrupted"]
    assert "the data have changed since the study was planned" in str(
        read_record(lab.folder / GELU / RECORD_FILE).reason
    )
    monkeypatch.undo()
    assert [run[0] for run in lab.ablab("resume", "outputs/ends").runs] == ["kept", "ok"]


def test_the_command_of_a_study_trains_all_of_it_on_the_data_that_there_are(lab: Lab, text: Path) -> None:
    before = changed(text, "One line more.\n")
    try:
        ended = lab.sweep(*STUDY, f"task.path={text}", OTHER_RATE)
    finally:
        text.write_text(before, encoding="utf-8")
    assert ended.status == 0
    assert ended.err == f"ablab: {RELU} and 1 more: trained again, since the data have changed\n"
    assert [run[0] for run in ended.runs] == ["ok", "ok"]


def test_more_devices_than_processes_is_refused_in_a_line(lab: Lab) -> None:
    for command in ((), ("-m",)):
        ended = lab.ablab(*lab.words(*command, "name=devices", "trainer.devices=2"))
        assert ended.status == 2
        assert ended.err.startswith(
            "ablab: error: trainer.devices=2: strategy=single runs one process; choose strategy=ddp"
        )
        assert len(ended.err.splitlines()) == 1
    assert not (lab.folder / "outputs" / "devices").exists()


def test_a_run_by_itself_that_hangs_is_ended(lab: Lab) -> None:
    process = lab.start(*lab.words("name=hung", "activation=hangs", "hang_timeout=2"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    record = read_record(lab.folder / "outputs" / "hung" / RECORD_FILE)
    assert (record.status, record.cause) == ("failed", "hung")
    assert "in fault" in str(record.traceback)
    assert str(record.reason).startswith("the process hangs in fault (faulty.py:")
    assert err == f"failed: {record.reason}; outputs/hung\n"
    assert not list((lab.folder / "outputs" / "hung").glob(".stack*"))
