"""Budgets of time: what short runs measure, the steps that follow, and that a repeated sweep finds them again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablab.analysis.comparison import compare
from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.report.notes import notes_of
from ablab.results.collect import collect
from ablab.results.record import Cost, Record
from ablab.results.run_context import BudgetReport, RunContext
from ablab.results.store import RECORD_FILE, write_record
from ablab.study.planning.expand import Run
from ablab.study.planning.preflight import Preflight
from ablab.study.trials.pilot import check_pilot, match_time, seconds_per_step, steps_for
from ablab.training.begin import new_record

TinyConfig = Callable[..., RunConfig]


def steps_of(reference: int, other: int) -> dict[str, RunConfig]:
    trainer = {"val_check_interval": 1, "log_every_n_steps": 1, "accumulate_grad_batches": 1, "gradient_clip_val": None}
    return {
        name: RunConfig(options={"trainer": {**trainer, "max_steps": steps}}, axes={})
        for name, steps in (("full", reference), ("lsh", other))
    }


def test_steps_follow_the_median_of_the_times_relative_to_the_reference_in_the_same_round() -> None:
    """The second round ran on a machine that was twice as slow for both; in the third something else ran beside."""
    seconds: dict[str, list[float | None]] = {"full": [0.010, 0.020, 0.012], "lsh": [0.015, 0.030, 0.050]}
    adjusted = steps_for("full", steps_of(300, 300), seconds)
    assert adjusted["full"] == ([], BudgetReport(changed={}, value=3.6, of=3.6))
    report = BudgetReport(changed={"trainer.max_steps": [300, 200]}, value=3.6, of=3.6)
    assert adjusted["lsh"] == (["trainer.max_steps=200"], report)  # 1.5 times as slow


def test_what_was_adjusted_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    steps_for("full", steps_of(300, 300), {"full": [0.01] * 3, "lsh": [0.015, 0.02, 0.03]})
    assert capsys.readouterr().out == (
        "lsh: trainer.max_steps 300 -> 150 for 3.0 of 3.0 s (a step takes 2.00 times the reference's, 1.50 to 3.00)\n"
    )


def test_few_steps_cannot_come_within_two_percent() -> None:
    with pytest.raises(UserError, match=r"lsh: cannot meet the budget of 0\.1 seconds by trainer\.max_steps"):
        steps_for("full", steps_of(10, 10), {"full": [0.01] * 3, "lsh": [0.03] * 3})


def test_a_variant_that_fails_keeps_its_steps_and_a_reference_that_fails_ends_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert steps_for("full", steps_of(300, 250), {"full": [0.01] * 3, "lsh": [0.01, None, 0.01]})["lsh"] == (
        [],
        BudgetReport(),
    )
    assert "lsh: did not train in its pilot, and keeps trainer.max_steps=250" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"the reference full did not train in its pilot"):
        steps_for("full", steps_of(300, 250), {"full": [0.01, None, 0.01], "lsh": [0.01] * 3})


def test_a_pilot_is_timed_by_its_record() -> None:
    named: dict[str, Any] = {"fingerprint": "", "study": "", "variant": "", "seed": 0, "axes": {}, "config": {}}
    assert seconds_per_step(Record(status="ok", **named, cost=Cost(steps=50, train_time_s=2.0))) == 0.04
    assert seconds_per_step(Record(status="failed", **named, cost=Cost(steps=50, train_time_s=2.0))) is None
    assert seconds_per_step(None) is None


def test_a_pilot_must_be_long_enough(tiny_config: TinyConfig) -> None:
    short = tiny_config("trainer.log_every_n_steps=10", "trainer.val_check_interval=10", "trainer.max_steps=15")
    with pytest.raises(UserError, match=r"budget\.pilot_steps=15: must be at least 20"):
        check_pilot(short, Preflight())


def test_who_was_not_measured_beside_the_reference_is_told(
    tiny_config: TinyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The machine is twice as fast as it was when the reference was timed."""
    days = {"a": "2026-01-01T00:00:00+00:00"}

    def compose(run: Run) -> tuple[RunConfig, Path]:
        return tiny_config("budget.match=time", "trainer.max_steps=1000"), tmp_path / (run.folder or "")

    def launch(pilots: list[Run]) -> None:
        for run in pilots:
            config, folder = compose(run)
            name = str(run.folder).split("/")[1]
            if not (folder / RECORD_FILE).exists():
                folder.mkdir(parents=True)
                made = replace(new_record(config), status="ok", started_at=days.get(name, "2026-02-02T00:00:00+00:00"))
                made.cost.steps, made.cost.train_time_s = 100, 2.0 if name == "a" else 1.0
                write_record(folder, made)

    a, b = (Run(overrides=[], context=RunContext(variant=name)) for name in "ab")
    match_time(compose, [a], launch)  # type: ignore[arg-type]
    assert "were made before" not in capsys.readouterr().out
    match_time(compose, [a, b], launch)  # type: ignore[arg-type]
    assert (
        "b: the pilots of b are new, and those of a were made before: where the machine is another or was busier, "
        f"steps follow that; remove {tmp_path / 'pilot'} to measure all of them anew\n"
    ) in capsys.readouterr().out
    match_time(compose, [a, b], launch)  # type: ignore[arg-type]
    assert "were made before" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_short_pilots_are_refused_before_anything_is_written(lab: Any, command: str) -> None:
    words = ["attention=full", "model.n_layers=1,2", "seed=0", "name=timed", "budget.match=time"]
    words += ["budget.pilot_steps=15", "trainer.max_steps=40", "trainer.val_check_interval=10"]
    words += ["trainer.log_every_n_steps=10"]
    done = lab.ablab("plan", *lab.words(*words)) if command == "plan" else lab.sweep(*words)
    assert done.status == 2
    assert done.err.startswith("ablab: error: budget.pilot_steps=15: must be at least 20")
    assert not (lab.folder / "outputs").exists()


def test_a_sweep_at_equal_time_is_the_same_when_repeated(lab: Any) -> None:
    """The slow variant works four times as hard; its pilots, run once, decide in the repeated sweep, too."""
    words = ["attention=full", "model.n_layers=1,4", "seed=0,1", "name=timed", "budget.match=time"]
    words += ["budget.pilot_steps=24", "trainer.max_steps=200", "trainer.val_check_interval=50"]
    words += ["trainer.log_every_n_steps=10"]
    first = lab.sweep(*words)
    assert first.status == 0, first.err
    told = re.search(r"model\.n_layers=4: trainer\.max_steps 200 -> (\d+)", first.out)
    assert told, first.out
    folder: Path = lab.folder / "outputs" / "timed"
    pilots = list(folder.glob(f"pilot/*/*/{RECORD_FILE}"))
    assert len(pilots) == 2 * 3
    records = [json.loads(path.read_text()) for path in folder.rglob(RECORD_FILE) if path not in pilots]
    assert sorted({record["cost"]["steps"] for record in records}) == sorted({200, int(told[1])})
    (item,) = compare(collect([folder])).items
    assert item.label == "model.n_layers=4"  # the steps make no variant
    assert any("EQUAL BUDGET" in note and "training time" in note for note in notes_of(item))

    times = {path: path.stat().st_mtime_ns for path in folder.rglob(RECORD_FILE)}
    again = lab.sweep(*words)
    assert again.status == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob(RECORD_FILE)} == times
