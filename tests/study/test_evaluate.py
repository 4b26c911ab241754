"""`ablab evaluate` over a study: what is there is not made again, what fails is named, Ctrl-C loses one at most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import ended, evaluation, record, write_runs

from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import EVALUATION_FOLDER, read_evaluations, read_record
from ablab.study import evaluate as module
from ablab.study.evaluate import evaluate, evaluate_all, finished_runs, requests
from ablab.training.evaluation import Request
from ablab.training.restore import SavedRun

LENGTHS = ["task.seq_len=64,128"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three runs that ended well, and one that did not."""
    return write_runs(tmp_path / "study", [record(1, 1.0), record(2, 2.0), record(3, 3.0), ended("failed", "boom", 4)])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Each evaluation that is made, as the folder of its run and its name; none looks at a model."""
    calls: list[tuple[str, str]] = []

    def measured(run: Path, request: Request, record: Record, tasks: object) -> Any:
        calls.append((run.name, request.name))
        return evaluation(request.name, record.fingerprint)

    monkeypatch.setattr(SavedRun, "open", lambda run, checkpoint, trust: run)
    monkeypatch.setattr(module, "evaluate_run", measured)
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, on: tuple[str, str]) -> None:
    before: Callable[..., Any] = vars(module)["evaluate_run"]

    def measured(run: Any, request: Request, *rest: Any) -> Any:
        found = before(run, request, *rest)
        if (run.name, request.name) == on:
            raise error
        return found

    monkeypatch.setattr(module, "evaluate_run", measured)


def test_every_run_that_ended_well_is_evaluated_at_each_length(
    study: Path, made: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_all([study], LENGTHS) == 0
    assert made == [(run, f"task.seq_len={length}") for length in (64, 128) for run in "012"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith(f"[1/6] {study}/0: val_loss@task.seq_len=64 1.0000")
    assert not (study / "3" / EVALUATION_FOLDER).exists()
    made.clear()
    assert evaluate_all([study, study / "0"], [*LENGTHS, "trainer.accelerator=cpu", "task.workers=1"]) == 0
    assert made == []
    assert capsys.readouterr().out == "6 of 6 evaluations are there already (--again makes them anew)\n"
    assert evaluate_all([study / "0"], LENGTHS, again=True) == 0
    assert made == [("0", "task.seq_len=64"), ("0", "task.seq_len=128")]


def test_one_that_fails_is_named_and_the_others_go_on(
    study: Path, made: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, UserError("position=learned: no more rows"), ("1", "task.seq_len=64"))
    assert evaluate_all([study], LENGTHS) == 1
    assert len(made) == 6
    assert capsys.readouterr().err.splitlines() == [
        f"ablab: {study}/1: task.seq_len=64: position=learned: no more rows",
        "ablab: 1 of 6 evaluations could not be made",
    ]
    assert [len(read_evaluations(run.folder, run.record.fingerprint)) for run in finished_runs([study])] == [2, 1, 2]
    with pytest.raises(UserError, match="no more rows"):  # the only one that is asked for
        evaluate_all([study / "1"], ["task.seq_len=64"])


def test_a_reason_is_said_once(
    study: Path, made: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in "012":
        failing(monkeypatch, UserError("no more rows"), (run, "task.seq_len=64"))
    with monkeypatch.context() as patch:
        failing(patch, UserError("no such file"), ("2", "task.seq_len=128"))
        assert evaluate_all([study], LENGTHS) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"ablab: {study}/0: task.seq_len=64: no more rows (and for 2 more)",
        f"ablab: {study}/2: task.seq_len=128: no such file",
        "ablab: 4 of 6 evaluations could not be made",
    ]
    assert evaluate_all([study], ["task.seq_len=128"]) == 0
    with pytest.raises(UserError, match=r"^no more rows$"):  # all that are left
        evaluate_all([study], LENGTHS)


def test_ctrl_c_loses_the_one_that_is_being_made(
    study: Path, made: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, KeyboardInterrupt(), ("1", "task.seq_len=128"))
        with pytest.raises(KeyboardInterrupt):
            evaluate_all([study], LENGTHS)
    written = sorted(path.relative_to(study).as_posix() for path in study.rglob(f"{EVALUATION_FOLDER}/*"))
    assert written == [
        f"{run}/{EVALUATION_FOLDER}/task.seq_len={length}.json"
        for run, length in (("0", 128), ("0", 64), ("1", 64), ("2", 64))
    ]
    made.clear()
    assert evaluate_all([study], LENGTHS) == 0
    assert made == [("1", "task.seq_len=128"), ("2", "task.seq_len=128")]


def test_an_evaluation_of_another_run_is_named(study: Path, made: list[tuple[str, str]]) -> None:
    evaluate_all([study / "0"], ["task.seq_len=64"])
    (study / "1" / EVALUATION_FOLDER).mkdir()
    source = study / "0" / EVALUATION_FOLDER / "task.seq_len=64.json"
    (study / "1" / EVALUATION_FOLDER / "task.seq_len=64.json").write_bytes(source.read_bytes())
    with pytest.raises(UserError, match="an evaluation of another run than the one that lies here"):
        evaluate_all([study], LENGTHS)


def test_a_full_disk_is_one_line(
    study: Path, made: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(run: Path, evaluation: object) -> None:
        raise OSError(28, "No space left on device", str(run))

    monkeypatch.setattr(module, "write_evaluation", full)
    assert evaluate_all([study], ["task.seq_len=64"]) == 1
    assert capsys.readouterr().err.count("No space left on device") == 3


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["checkpoint=best"]),
        (["task.seq_len=64,128", "task.eval_tokens=512"], ["64", "128"]),
        (["task.seq_len=64,6_4,64"], ["64"]),
        (["task.seq_len=range(1,4)"], ["1", "2", "3"]),
        (["task.seq_len=64,128", "task.val_fraction=0.1,0.2"], ["0.1,64", "0.2,64", "0.1,128", "0.2,128"]),
    ],
)
def test_lists_are_several_evaluations(words: list[str], names: list[str]) -> None:
    found = [request.name for request in requests(words)]
    assert len(found) == len(names)
    for name, parts in zip(found, names, strict=True):
        assert all(part in name for part in parts.split(","))


def test_records_that_are_read_have_not_changed(study: Path, made: list[tuple[str, str]]) -> None:
    before = [read_record(study / str(run) / "record.json") for run in range(4)]
    evaluate_all([study], LENGTHS)
    assert [read_record(study / str(run) / "record.json") for run in range(4)] == before


def test_a_place_must_be_named() -> None:
    with pytest.raises(UserError, match=r'evaluate\("outputs/mine"\)'):
        evaluate()


def test_what_is_no_place_of_runs_is_named(tmp_path: Path) -> None:
    for place, said in ((tmp_path / "none", "no such folder"), (tmp_path, "no runs here")):
        with pytest.raises(UserError, match=said):
            finished_runs([place])
