"""What is known of a study before it is paid for: its runs, their errors, and a probe of each variant."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from processes import processes_in, wait_for

from ablab.config import RunConfig
from ablab.config.schema import TUNING_FOLDER, ExecutionConfig
from ablab.results.record import Cost, Record
from ablab.results.run_context import RunContext, TuningReport
from ablab.results.store import RECORD_FILE, read_record, write_record
from ablab.study.events import RunOutline
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.expand import Run
from ablab.study.preview import Probe, Row
from ablab.study.preview_study import STEPS, _measured, _trials, _without_trials

if TYPE_CHECKING:
    from staged import Stage

    from conftest import Lab

TUNED = ("tune.lr=[1e-3,1e-2]", "tune.seeds=[7,8]", "tune.extend=0")


def record(**given: Any) -> Record:
    cost = Cost(wall_time_s=5.0, train_time_s=0.8, evaluation_time_s=0.6, steps=STEPS, peak_memory_bytes=100)
    named = {"fingerprint": "", "study": "", "variant": "", "seed": 0, "axes": {}, "config": {}}
    return Record(**{"status": "ok", "cost": cost, "metrics": {"val_loss": 1.0}, **named, **given})


def planned(tmp_path: Path) -> PlannedRun:
    info = RunOutline(index=0, variant="", task="", seed=0, steps=1000)
    trainer = {"max_steps": 1000, "val_check_interval": 300, "log_every_n_steps": 100}
    config = RunConfig(
        options={"trainer": {**trainer, "accumulate_grad_batches": 1, "gradient_clip_val": None}, "schedule": {}},
        axes={},
    )
    return PlannedRun(info=info, config=config, folder=tmp_path)


def test_the_time_of_a_run_is_start_and_steps_and_evaluations(tmp_path: Path) -> None:
    """In 5 s, 8 steps of 0.1 s and two evaluations of 0.3 s, so a start of 3.6 s; then 1,000 steps, 4 evaluations."""
    probe = _measured(record(), planned(tmp_path))
    assert probe.seconds == pytest.approx(3.6 + 1000 * 0.1 + 4 * 0.3)
    assert (probe.step_seconds, probe.memory_bytes) == pytest.approx((0.1, 100))


def test_the_test_split_is_evaluated_once(tmp_path: Path) -> None:
    """Three evaluations of 0.2 s in the probe, five in the run."""
    probe = _measured(record(metrics={"val_loss": 1.0, "test_loss": 1.0}), planned(tmp_path))
    assert probe.seconds == pytest.approx(3.6 + 1000 * 0.1 + 5 * 0.2)


def test_a_probe_that_failed_says_why(tmp_path: Path) -> None:
    probe = _measured(record(status="failed", reason="the bulb is broken"), planned(tmp_path))
    assert (probe.seconds, probe.error) == (None, "the bulb is broken")


def test_a_plan_tries_no_runs_side_by_side() -> None:
    given = ExecutionConfig(runs_per_device=3, retries=2)
    assert _without_trials(given, 6) == given
    assert _without_trials(ExecutionConfig(runs_per_device="auto"), 6) == ExecutionConfig(jobs=6)


def test_a_plan_writes_nothing_and_lists_runs_and_failed_probes(lab: Lab) -> None:
    ended = lab.ablab("plan", *lab.words("activation=relu,raises", "seed=0,1,2", "name=planning"))
    assert ended.status == 1
    assert ended.err.startswith("ablab: the probe of activation=raises failed: RuntimeError: the bulb is broken")
    assert len(ended.err.splitlines()) == 1
    lines = ended.out.splitlines()
    assert any(line.startswith("activation=relu") and " s " in line for line in lines)
    assert any(line.startswith("activation=raises") and "RuntimeError: the bulb is broken" in line for line in lines)
    assert "6 runs: 2 variants x 3 seeds; 0 are done with" in lines
    assert not (lab.folder / "outputs" / "planning").exists()


def test_a_plan_that_is_ended_leaves_nothing(lab: Lab) -> None:
    """By a scheduler's SIGTERM, while a variant is tried."""
    before = set(processes_in(lab.folder))
    (lab.folder / "slow").touch()
    process = lab.start("plan", *lab.words("activation=slow", "name=ended"))
    wait_for(lambda: process.poll() is not None or (lab.folder / "slow-began").exists())
    process.terminate()
    out, err = process.communicate()
    (lab.folder / "slow").unlink()
    assert (process.returncode, out, err) == (130, "", "\nablab: interrupted\n")
    assert not (lab.folder / "outputs" / "ended").exists()
    for path in Path(tempfile.gettempdir()).glob("ablab-probe-*/*/config.yaml"):
        with contextlib.suppress(FileNotFoundError):  # of other tests, which remove them
            assert "name: ended" not in path.read_text()
    wait_for(lambda: set(processes_in(lab.folder)) <= before)


def test_what_is_done_with_is_counted(lab: Lab, stage: Stage) -> None:
    words = lab.words("activation=relu,gelu", "name=half", *TUNED)
    assert lab.ablab("-m", *words).status == 0
    ended = lab.ablab("plan", "--no-probe", *words, "seed=0,1")
    assert "4 runs: 2 variants x 2 seeds; 2 are done with" in ended.out
    assert "8 runs before them, to tune or to measure speeds; 8 are done with" in ended.out
    shutil.rmtree(next((lab.folder / "outputs" / "half" / TUNING_FOLDER).rglob(RECORD_FILE)).parent)
    left = lab.ablab("plan", "--no-probe", *words).out
    assert "8 runs before them, to tune or to measure speeds; 7 are done with" in left
    assert "2 runs: 2 variants x 1 seed; 0 are done with" in left  # what will be chosen is open again


def test_trials_are_done_with_where_the_study_would_say_so(lab: Lab, stage: Stage) -> None:
    """One that failed for good is, unless what failed is to be tried again. None of other settings is, none damaged."""
    words = lab.words("activation=relu", "name=asked", *TUNED, "retries=0")
    assert lab.ablab("-m", *words).status == 0
    place = next((lab.folder / "outputs" / "asked" / TUNING_FOLDER / "lr=0.001").rglob(RECORD_FILE))
    write_record(place.parent, replace(read_record(place), status="failed", cause="killed", attempts=1))

    def left(*more: str) -> tuple[int, ...]:
        """How many runs are left, and how many trials."""
        ended = lab.ablab("plan", "--no-probe", *words, *more)
        assert ended.status == 0, ended.err
        found = re.findall(r"^(\d+) runs?(?:: | before ).*?(?:; (\d+) are done with)?$", ended.out, re.MULTILINE)
        return tuple(int(planned) - int(done or 0) for planned, done in found)

    assert left() == (0, 0)
    assert left("retry=failed") == (1, 1)
    assert left("trainer.max_steps=6") == (1, 4)
    place.write_text('{"sta')
    assert left() == (1, 1)


def test_the_time_that_is_left_is_without_trials_that_are_done_with(tmp_path: Path) -> None:
    """Of 6 trials two are left, with starts of 3 s, 1,000 steps of 0.1 s, and four evaluations and a test of 0.2 s."""
    run = planned(tmp_path)
    search: Any = SimpleNamespace(counts={"": 6}, count=6, most=10, done=lambda ended: {"": 4})
    run = replace(run, config=replace(run.config, options={**run.config.options, "optimizer": {}}))
    probe = Probe(seconds=5.0, step_seconds=0.1, start_seconds=3.0, evaluation_seconds=0.2, tested=True)
    rows = [Row(first=run.info, probe=probe)]
    found = _trials(search, [Run(overrides=[], context=RunContext(), folder="")], [run], rows, lambda trial: False)
    assert (found.count, found.done, found.more) == (6, 4, 4)
    assert found.seconds == pytest.approx(2 * (3.0 + 1000 * 0.1 + 5 * 0.2))


def test_no_grid_is_extended_any_more_where_all_is_chosen(tmp_path: Path) -> None:
    run = planned(tmp_path)
    search: Any = SimpleNamespace(counts={"": 6}, count=6, most=10, done=lambda ended: {"": 6})
    run = replace(run, context=RunContext(tuning=TuningReport(chosen=0.1)))
    rows = [Row(first=run.info, probe=Probe(seconds=5.0, step_seconds=0.1))]
    found = _trials(search, [Run(overrides=[], context=RunContext(), folder="")], [run], rows, lambda trial: True)
    assert (found.more, found.seconds) == (0, 0.0)


def test_errors_of_several_runs_are_all_listed(lab: Lab) -> None:
    ended = lab.ablab("plan", "--no-probe", *lab.words("model.n_heads=2,3,5", "attention=full,windowed", "name=wrong"))
    assert ended.status == 2
    assert [line.count("does not divide") for line in ended.err.splitlines()] == [1, 1]  # a line per mistake
    assert "4 of 6 runs cannot work; nothing has been started" in ended.out


def test_a_sweep_with_such_runs_does_not_start(lab: Lab) -> None:
    ended = lab.sweep("model.n_heads=2,3,5", "name=wrong")
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 1
    assert "nor can 1 more work: ablab plan shows them" in ended.err
    assert not (lab.folder / "outputs" / "wrong").exists()
