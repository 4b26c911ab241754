"""Learning rates by the same grid for all: what is chosen, what is refused, and what a sweep makes of it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Metric, Record
from ablab.results.run_context import TuningReport
from ablab.results.store import RECORD_FILE
from ablab.study.planning.expand import Run
from ablab.study.trials.tuning import _choose, check_tuning, rates_of, refuse_for_one_run, score, seeds_of

if TYPE_CHECKING:
    from conftest import Lab

TinyConfig = Callable[..., RunConfig]


def record(seed: int = 1000, loss: float = 1.0) -> Record:
    primary = Metric(name="val_loss", split="val", direction="min")
    metrics = {"val_loss": loss}
    named: dict[str, Any] = {"fingerprint": "", "study": "", "variant": ""}
    return Record(status="ok", **named, seed=seed, axes={}, config={}, primary=primary, metrics=metrics)


def runs(*losses: float) -> list[Record | None]:
    return [record(seed=1000 + index, loss=loss) for index, loss in enumerate(losses)]


def test_the_mean_over_seeds_decides(capsys: pytest.CaptureFixture[str]) -> None:
    results = {1e-4: runs(2.0, 2.2), 3e-4: runs(1.5, 2.3), 1e-3: runs(1.0, 3.0)}
    tried: list[list[float | None]] = [[0.0001, 2.1], [0.0003, 1.9], [0.001, 2.0]]
    assert _choose("attention=lsh", results) == TuningReport(chosen=0.0003, tried=tried)
    assert capsys.readouterr().out == "attention=lsh: optimizer.lr=0.0003 of 0.0001, 0.0003, 0.001\n"


def test_what_diverged_is_worst_and_of_equals_the_smaller_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    diverged = [*runs(0.1), dataclasses.replace(record(seed=1001, loss=0.1), status="diverged")]
    chosen = _choose("x", {1e-4: runs(2.0, 2.0), 3e-4: runs(2.0, 2.0), 1e-3: diverged})
    assert chosen == TuningReport(chosen=0.0001, tried=[[0.0001, 2.0], [0.0003, 2.0], [0.001, None]], edge="smallest")
    assert "it is the smallest of the grid: widen tune.lr" in capsys.readouterr().out


def test_higher_may_be_better() -> None:
    accurate = dataclasses.replace(record(), primary=Metric(name="val_accuracy", split="val", direction="max"))
    accurate.metrics = {"val_accuracy": 0.75}
    assert score([accurate]) == -0.75
    assert math.isinf(score([accurate, None]))


def test_a_grid_of_which_nothing_works_is_said_to_be_one() -> None:
    with pytest.raises(UserError, match=r"no learning rate of tune\.lr ended well"):
        _choose("x", {1e-1: [None], 1.0: [None]})


@pytest.mark.parametrize("rates", ["[0.001]", "[0.001,0.001]", "[0.001,-1.0]", "[]"])
def test_grids_that_are_none(tiny_config: TinyConfig, rates: str) -> None:
    with pytest.raises(UserError, match="must be a list of at least two different positive numbers"):
        rates_of(tiny_config(f"tune.lr={rates}"))


def test_tuning_seeds_are_others(tiny_config: TinyConfig) -> None:
    configs = [tiny_config("tune.lr=[0.1,0.2]", "tune.seeds=[1,7]", f"seed={seed}") for seed in (0, 1)]
    with pytest.raises(UserError, match=r"tune\.seeds: 1 would also be compared on"):
        seeds_of(configs)
    with pytest.raises(UserError, match=r"tune\.lr: one run is not tuned"):
        refuse_for_one_run(configs[0])


def test_a_rate_is_tuned_or_given(tiny_config: TinyConfig) -> None:
    config = tiny_config("tune.lr=[0.1,0.2]")
    check_tuning([Run(overrides=["seed=0"])], [config])
    with pytest.raises(UserError, match=r"tune\.lr chooses optimizer\.lr, which the command gives, too"):
        check_tuning([Run(overrides=["optimizer.lr=0.1"])], [config])


@pytest.mark.slow
def test_a_sweep_tunes_each_variant_and_compares_without_the_tuning_runs(lab: Lab) -> None:
    """With a rate at which nothing can be learned: the loss is no number."""
    words = ["attention=full,windowed", "seed=0,1", "name=tuned", "trainer.max_steps=6", "trainer.val_check_interval=3"]
    words += ["tune.lr=[1e-3,1e-2,1e30]", "tune.seeds=[9]", "trainer.log_every_n_steps=1"]
    first = lab.sweep(*words)
    assert first.status == 0, first.err
    folder = lab.folder / "outputs" / "tuned"
    trials = sorted(folder.glob(f"tune/*/*/*/{RECORD_FILE}"))
    assert len(trials) == 6
    compared = [json.loads(path.read_text()) for path in folder.rglob(RECORD_FILE) if path not in trials]
    assert len(compared) == 4
    for each in compared:
        tried = dict(each["tuning"]["tried"])
        assert list(tried) == [1e-3, 1e-2, 1e30]
        assert tried[1e30] is None
        best = min((1e-3, 1e-2), key=lambda rate: tried[rate])
        assert each["tuning"]["chosen"] == each["config"]["optimizer"]["lr"] == best
    assert "attention=windowed: optimizer.lr=" in first.out
    concluded = first.out.split("quality, against")[1]
    assert "tune attention" not in concluded
    assert "tuned on the same grid" in concluded

    times = {path: path.stat().st_mtime_ns for path in folder.rglob(RECORD_FILE)}
    again = lab.sweep(*words)
    assert again.status == 0, again.err
    finished = [path for path in times if json.loads(path.read_text())["status"] == "ok"]
    assert {path: path.stat().st_mtime_ns for path in finished} == {path: times[path] for path in finished}
