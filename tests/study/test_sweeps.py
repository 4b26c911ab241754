"""Sweeps as a user starts, stops, kills and resumes them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import Command
from filelock import FileLock
from processes import processes_in, wait_for

from ablab.results.keep import keep
from ablab.results.record import Record
from ablab.results.restore import restore
from ablab.results.store import RECORD_FILE, read_record

if TYPE_CHECKING:
    from conftest import Lab

pytestmark = pytest.mark.usefixtures("_costs_are_known")

SWEEP = ("name=faults", "activation=relu,raises,diverges,killed", "retries=0")


@pytest.mark.slow
def test_a_sweep_sees_every_run_to_its_end_and_tries_again_what_failed_when_asked(lab: Lab) -> None:
    first = lab.sweep(*SWEEP)
    assert first.status == 1, first.err
    assert first.err.splitlines() == ["ablab: 3 of 4 runs did not end well; see the run health"]

    compared = json.loads(lab.ablab("compare", "outputs/faults", "--format", "json").out)["runs"]
    rows = {row["variant"].removeprefix("activation="): (row["status"], row["reason"]) for row in compared}
    assert {option: status for option, (status, _) in rows.items()} == {
        "relu": "ok",
        "raises": "failed",
        "diverges": "diverged",
        "killed": "failed",
    }
    assert "RuntimeError: the bulb is broken" in rows["raises"][1]
    assert "became nan" in rows["diverges"][1]
    assert "killed by SIGKILL" in rows["killed"][1]

    # Again: nothing is run.
    records = {path: path.stat().st_mtime_ns for path in lab.folder.glob("outputs/faults/**/record.json")}
    assert len(records) == 4
    second = lab.sweep(*SWEEP)
    assert second.status == 1
    assert [run[0] for run in second.runs] == ["kept", "failed", "diverged", "failed"]
    assert changed(records) == set()

    # Where it is asked for, what failed is tried again; what has ended by itself is kept, to the byte.
    for command in (
        ("resume", "outputs/faults", "--trust", "--retry", "failed"),
        lab.words("-m", *SWEEP, "--retry", "failed"),
    ):
        records = {path: path.stat().st_mtime_ns for path in records}
        third = lab.ablab(*command)
        assert third.status == 1
        assert sorted(run[0] for run in third.runs) == ["diverged", "failed", "failed", "kept"]
        assert changed(records) == {"activation=raises", "activation=killed"}

    # A changed setting makes another run of one that was kept.
    records = {path: path.stat().st_mtime_ns for path in records}
    fourth = lab.sweep(*SWEEP, "activation=relu,diverges", "optimizer.lr=0.01")
    assert [run[0] for run in fourth.runs] == ["ok", "diverged"]
    assert changed(records) == {"activation=relu", "activation=diverges"}


def changed(records: dict[Path, int]) -> set[str]:
    return {path.parent.parent.name for path, written in records.items() if path.stat().st_mtime_ns != written}


@pytest.mark.slow
def test_one_process_and_two_side_by_side(lab: Lab) -> None:
    ended = lab.sweep("name=processes", "strategy=single,ddp")
    assert ended.status == 0, ended.err
    assert [run[0] for run in ended.runs] == ["ok", "ok"]
    one, two = (
        read_record(lab.folder / f"outputs/processes/strategy={option}/seed=0" / RECORD_FILE)
        for option in ("single", "ddp")
    )
    assert two.metrics["val_loss"] == pytest.approx(one.metrics["val_loss"], abs=1e-5)
    assert two.cost.tokens == one.cost.tokens


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_in_order_and_the_same_command_finishes_it(lab: Lab) -> None:
    sweep = ("name=stopped", "activation=relu,slow", "trainer.max_steps=20", "seed=0,1")
    (lab.folder / "slow").touch()
    study = lab.folder / "outputs" / "stopped"
    with started(lab, "-m", *sweep) as process:
        folder = study / "activation=slow" / "seed=0"
        wait_for(lambda: (folder / "metrics.csv").exists() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip() == "ablab: interrupted; the same command goes on with the runs that are left"
    assert "Traceback" not in out
    assert "1/1 ok" in out, "the table so far is not printed"
    record = read_record(folder / RECORD_FILE)
    assert (record.status, record.reason) == ("interrupted", "stopped before it was finished")
    assert not (study / "activation=relu" / "seed=1").exists()
    wait_for(lambda: not processes_in(study))

    (lab.folder / "slow").unlink()
    ended = lab.sweep(*sweep)
    assert ended.status == 0, ended.err
    assert [run[0] for run in ended.runs] == ["kept", "ok", "ok", "ok"]


@pytest.mark.slow
def test_what_is_edited_while_a_sweep_runs_changes_no_queued_run(lab: Lab) -> None:
    """The user's module, its option and the data's place, edited after the first run has started."""
    folder = lab.folder / "outputs" / "edited"
    module, option = lab.folder / "edited.py", lab.folder / "options" / "activation" / "edited.yaml"
    module.write_text((lab.folder / "faulty.py").read_text())
    option.write_text("_target_: edited.Slow\n_partial_: true\n")
    (lab.folder / "slow").touch()
    try:
        with started(lab, "-m", "name=edited", "activation=edited,relu", "seed=0,1") as process:
            wait_for(lambda: (folder / "activation=edited" / "seed=0" / "run.log").exists())
            module.write_text("raise RuntimeError('edited')\n")
            option.write_text("_target_: nothing.Here\n")
            (lab.folder / "slow").unlink()
            out, err = process.communicate(timeout=120)
    finally:
        (lab.folder / "slow").unlink(missing_ok=True)
        option.unlink()
    assert process.returncode == 0, err
    assert out.count("ok  ") >= 4


@pytest.mark.slow
def test_a_second_supervisor_is_refused_and_a_killed_one_leaves_nothing_running(lab: Lab) -> None:
    sweep = ("name=locked", "activation=slow,relu", "trainer.max_steps=20")
    (lab.folder / "slow").touch()
    study = lab.folder / "outputs" / "locked"
    with started(lab, "-m", *sweep) as process:
        wait_for(lambda: (study / "activation=slow" / "seed=0" / "metrics.csv").exists())
        refused = lab.sweep(*sweep)
        assert refused.status == 2
        assert f"process {process.pid} on" in refused.err
        process.kill()
        process.communicate()
    wait_for(lambda: not processes_in(study))
    (lab.folder / "slow").unlink()
    ended = lab.ablab("resume", str(study), "--trust")
    assert ended.status == 0, ended.err
    assert sorted(run[0] for run in ended.runs) == ["ok", "ok"]
    assert read_record(study / "activation=slow" / "seed=0" / RECORD_FILE).notes == []


@pytest.mark.slow
def test_added_seeds_and_variants_run_alone_and_the_look_is_counted(lab: Lab) -> None:
    three = lab.sweep("name=grown", "activation=relu,gelu", "seed=0,1,2")
    assert len(three.runs) == 6
    four = lab.sweep("name=grown", "activation=relu,gelu", "seed=0,1,2,3")
    assert [run[0] for run in four.runs].count("kept") == 6
    assert [run[0] for run in four.runs].count("ok") == 2
    assert "analysed at 3, then 4 seeds, which was not planned" in four.out
    more = lab.sweep("name=grown", "activation=relu,gelu,silu", "seed=0,1,2,3")
    assert [run[0] for run in more.runs].count("kept") == 8
    assert "analysed at 3, then 4 seeds" in more.out


@pytest.mark.slow
def test_a_resumed_study_is_concluded_on_its_own_terms(lab: Lab) -> None:
    """A margin that the study declares is one of them, and so is the mean of its last evaluations."""
    terms = ("comparison.margin=1000", "comparison.last_k=2")
    told, averaged = "within the declared margin of 1000", "val_loss: the mean of the last 2 evaluations of each run."
    out = lab.sweep("name=terms", "activation=relu,gelu", "seed=0,1,2,3", *terms).out
    assert told in out
    assert averaged in out
    study = lab.folder / "outputs" / "terms"
    for path in (study / "activation=gelu" / "seed=3").rglob(RECORD_FILE):
        path.unlink()
    ended = lab.ablab("resume", str(study))
    assert [run[0] for run in ended.runs].count("ok") == 1
    assert told in ended.out
    assert averaged in ended.out


def _read_only(lock: FileLock) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), lock.lock_file)


@pytest.mark.slow
def test_a_study_that_moved_is_resumed_where_it_lies(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = ("name=moved", "activation=relu,gelu")
    assert lab.sweep(*sweep).status == 0
    shutil.move(lab.folder / "outputs" / "moved", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere" / "activation=gelu")
    with monkeypatch.context() as patch:
        patch.setattr(FileLock, "acquire", _read_only)
        ended = lab.ablab("resume", str(tmp_path / "elsewhere"))
    assert (ended.status, ended.err) == (2, f"ablab: error: {tmp_path}/elsewhere/.lock: Read-only file system\n")
    ended = lab.ablab("resume", str(tmp_path / "elsewhere"))
    assert ended.status == 0, ended.err
    assert sorted(run[0] for run in ended.runs) == ["kept", "ok"]
    keep(tmp_path / "elsewhere", tmp_path / "moved.jsonl.xz")
    restore(tmp_path / "moved.jsonl.xz", tmp_path / "restored")
    ended = lab.ablab("resume", str(tmp_path / "restored"))  # whose plan does not say where its command was given
    assert ended.status == 0, ended.err
    assert [run[0] for run in ended.runs] == ["kept", "kept"]


@pytest.mark.parametrize(
    ("content", "key", "now"),
    [
        ("baseline: activation=relu", "baseline", "comparison.baseline"),
        ("hydra: {callbacks: {conclude: {margin: 0.3}}}", "hydra.callbacks.conclude.margin", "comparison.margin"),
    ],
)
def test_a_study_file_of_an_earlier_version_is_told_what_to_write(
    lab: Lab, tmp_path: Path, content: str, key: str, now: str
) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "old.yaml").write_text(f"# @package _global_\nname: old\n{content}\n")
    ended = lab.ablab("-m", "--config-dir", str(tmp_path), "study=old", "activation=relu,gelu")
    assert ended.status == 2
    assert ended.err.startswith(f"ablab: error: {key}: is now {now}; write {now}=... in a command, ")
    assert len(ended.err.splitlines()) == 1


UNFINISHED = {
    "schema": 2,
    "command": ["-m", "a=1"],
    "working_folder": "/",
    "python_path": [],
    "comparison": {},
    "runs": None,
}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "no such folder"),
        ("", "holds no study"),
        ("{", "cannot be read"),
        (json.dumps(UNFINISHED), "add --trust to run what the folder has as its command: ablab -m a=1"),
        (json.dumps(UNFINISHED | {"schema": 3}), "of another version of ablab"),
        (json.dumps(UNFINISHED | {"runs": []}), "the plan cannot be read (it has no runs)"),
    ],
)
def test_what_cannot_be_resumed(lab: Lab, tmp_path: Path, content: str | None, line: str) -> None:
    folder = tmp_path / "study"
    if content is not None:
        folder.mkdir()
    if content:
        (folder / "plan.json").write_text(content)
    ended = lab.ablab("resume", str(folder))
    assert ended.status == 2
    assert line in ended.err
    assert len(ended.err.splitlines()) == 1


def table(study: Path) -> dict[str, tuple[object, ...]]:
    """All of a study's results that must not depend on how often it was killed."""

    def result(record: Record) -> tuple[object, ...]:
        return (
            record.status,
            record.metrics,
            record.mechanism,
            record.responses,
            record.cost.steps,
            record.fingerprint,
        )

    return {str(p.parent.relative_to(study)): result(read_record(p)) for p in sorted(study.rglob(RECORD_FILE))}


def _kill_all(process: Command, study: Path) -> None:
    """End the command and the runs of its study, none of which is told."""
    for pid in [process.pid, *processes_in(study)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_killed_again_and_again_a_study_ends_as_one_that_was_left_alone(lab: Lab) -> None:
    """Supervisor and runs together, by SIGKILL, at moments that are spread over the study."""
    settings = (
        *("activation=relu,gelu", "seed=0,1", "trainer.max_steps=60", "model.dropout=0.1", "jobs=2"),
        *("trainer.val_check_interval=12", "trainer.log_every_n_steps=6"),
    )
    assert lab.sweep("name=alone", *settings).status == 0
    study = lab.folder / "outputs" / "killed"
    for moment in range(1, 3):
        words = lab.words("-m", "name=killed", *settings) if moment == 1 else ["resume", str(study)]
        with started(lab, words=words) as process:
            more = len(list(study.rglob("last.ckpt"))) + 1
            wait_for(lambda least=more: len(list(study.rglob("last.ckpt"))) >= least or process.poll() is not None)
            _kill_all(process, study)
    assert lab.ablab("resume", str(study)).status == 0
    assert table(study) == table(lab.folder / "outputs" / "alone")


@pytest.mark.slow
def test_killed_within_a_block_and_after_a_look_a_study_in_blocks_ends_as_one_that_was_left_alone(lab: Lab) -> None:
    """Nothing is decided before the last look: every variant gets every seed, in blocks of three, one and one."""
    settings = (
        *("activation=relu,gelu", "seed=auto", "seeds.max=5", "seeds.looks=[3,4]", "seeds.stop=equivalent"),
        *("comparison.margin=1e-9", "jobs=2"),
    )
    alone = lab.sweep("name=auto", *settings)
    assert alone.status == 0, alone.err
    assert "after 4 seeds: nothing new is decided; open: gelu; 2 runs to the look at 5 seeds" in alone.out
    assert "after 5 seeds: nothing new is decided; still open: gelu; 10 runs made, 0 of 10 saved" in alone.out
    study = lab.folder / "outputs" / "auto-killed"
    for moment, least in enumerate((2, 7)):
        words = ["resume", str(study)] if moment else lab.words("-m", "name=auto-killed", *settings)
        with started(lab, words=words) as process:
            wait_for(lambda runs=least: len(list(study.rglob(RECORD_FILE))) >= runs or process.poll() is not None)
            _kill_all(process, study)
    assert lab.ablab("resume", str(study)).status == 0
    assert table(study) == table(lab.folder / "outputs" / "auto")
    plans = [json.loads((lab.folder / "outputs" / name / "plan.json").read_text()) for name in ("auto", "auto-killed")]
    assert plans[0]["looks"] == plans[1]["looks"]
    looks = [json.loads((lab.folder / "outputs" / name / "looks.json").read_text()) for name in ("auto", "auto-killed")]
    assert [[look["seeds"] for look in each] for each in looks] == [[list(range(n)) for n in (3, 4, 5)]] * 2
    again = lab.sweep("name=auto-killed", *settings)
    assert {run[0] for run in again.runs} == {"kept"}


@contextlib.contextmanager
def started(lab: Lab, *arguments: str, words: list[str] | None = None) -> Iterator[Command]:
    process = lab.start(*(lab.words(*arguments) if words is None else words))
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
