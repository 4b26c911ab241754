"""Fair tuning: what is chosen, how grids grow, what is refused, and what a sweep makes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Metric, Record
from ablab.results.run_context import BudgetReport, RunContext, TuningReport
from ablab.results.store import RECORD_FILE, write_record
from ablab.study.planning.compose import Composed
from ablab.study.planning.expand import Run
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.units import UNITS
from ablab.study.trials.choice import best_of, report_of, score
from ablab.study.trials.points import Point
from ablab.study.trials.tuning import check_equal, check_tuning, refuse_for_one_run, seeds_of, tune

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


def chosen_of(results: dict[float, list[Record | None]]) -> TuningReport:
    points: list[tuple[Point, list[Record | None]]] = [({"optimizer.lr": rate}, each) for rate, each in results.items()]
    best = best_of(points)
    assert best is not None
    return report_of(best, points, {"optimizer.lr": [*results]})


def test_the_mean_over_seeds_decides_and_every_value_is_kept() -> None:
    report = chosen_of({1e-4: runs(2.0, 2.2), 3e-4: runs(1.5, 2.3), 1e-3: runs(1.0, 3.0)})
    assert (report.chosen, report.edge, report.settings) == (0.0003, None, {"optimizer.lr": 0.0003})
    assert report.tried == [[0.0001, 2.1], [0.0003, 1.9], [0.001, 2.0]]
    assert [point["values"]["val_loss"] for point in report.points] == [[2.0, 2.2], [1.5, 2.3], [1.0, 3.0]]


def test_what_diverged_is_worst_and_of_equals_the_smaller_is_taken() -> None:
    diverged = [*runs(0.1), dataclasses.replace(record(seed=1001, loss=0.1), status="diverged")]
    report = chosen_of({1e-4: runs(2.0, 2.0), 3e-4: runs(2.0, 2.0), 1e-3: diverged})
    assert (report.chosen, report.edge) == (0.0001, "smallest")
    assert report.tried == [[0.0001, 2.0], [0.0003, 2.0], [0.001, None]]
    assert report.points[-1]["values"] == {"val_loss": [0.1, None]}


def test_higher_may_be_better() -> None:
    accurate = dataclasses.replace(record(), primary=Metric(name="val_accuracy", split="val", direction="max"))
    accurate.metrics = {"val_accuracy": 0.75}
    assert score([accurate]) == -0.75
    assert math.isinf(score([accurate, None]))


class Bench:
    """Tuning runs whose loss is a function of the config, on the disk as a supervisor leaves them.

    Args:
        loss: of (attention, rate, seed); infinite: it diverged.
    """

    def __init__(self, config: TinyConfig, folder: Path, loss: Callable[[str, float, int], float]) -> None:
        self._config, self._folder, self._loss = cache(config), folder, loss
        self.launched: list[list[Run]] = []

    def compose(self, run: Run) -> Composed:
        chosen = [word for word in run.overrides if word.startswith(("attention=", "tune."))]
        values = (word.partition("=") for word in run.overrides if word not in chosen)
        config = self._config(*chosen).with_values({key: yaml.safe_load(value) for key, _, value in values})
        return config, self._folder / (run.folder or "compared")

    def launch(self, trials: list[Run]) -> None:
        self.launched.append(trials)
        for run in trials:
            config, folder = self.compose(run)
            folder.mkdir(parents=True)
            loss = self._loss(config.axes["attention"], float(config.options["optimizer"]["lr"]), config.seed)
            made = record(config.seed, loss)
            write_record(folder, made if math.isfinite(loss) else dataclasses.replace(made, status="diverged"))

    def tune(self, *words: str) -> dict[str, TuningReport]:
        plan = [self._run(name, *words) for name in ("full", "windowed")]
        tuned = tune(self.compose, plan, self.launch)  # type: ignore[arg-type]
        return {run.variant: run.context.tuning for run in tuned if run.context.tuning}

    @staticmethod
    def _run(attention: str, *words: str) -> Run:
        return Run(overrides=[f"attention={attention}", *words], context=RunContext(variant=f"attention={attention}"))


def valley(**best: float) -> Callable[[str, float, int], float]:
    """A loss that is lowest at a rate of each attention's own."""
    return lambda attention, rate, seed: (math.log10(rate / best[attention])) ** 2 + seed / 1e6


def tried(report: TuningReport) -> list[float | None]:
    return [rate for rate, _ in report.tried]


def test_grids_grow_for_all_until_the_best_of_each_is_inside(tiny_config: TinyConfig, tmp_path: Path) -> None:
    bench = Bench(tiny_config, tmp_path, valley(full=1e-3, windowed=0.1))
    found = bench.tune("tune.lr=[1e-3,1e-2]")
    assert [tried(report) for report in found.values()] == [[1e-4, 1e-3, 1e-2, 0.1, 1.0]] * 2
    assert [(report.chosen, report.edge) for report in found.values()] == [(1e-3, None), (0.1, None)]
    assert all(report.extended == {"optimizer.lr": [1, 2]} for report in found.values())
    assert [len(trials) for trials in bench.launched] == [8, 8, 4]
    assert len({run.folder for trials in bench.launched for run in trials}) == 20


def test_a_grid_grows_no_further_than_it_may(tiny_config: TinyConfig, tmp_path: Path) -> None:
    bench = Bench(tiny_config, tmp_path, valley(full=1e-3, windowed=100.0))
    found = bench.tune("tune.lr=[1e-3,1e-2]", "tune.extend=1")
    assert tried(found["attention=full"]) == [1e-4, 1e-3, 1e-2, 0.1]
    assert [report.edge for report in found.values()] == [None, "largest"]


def test_a_grid_does_not_grow_where_its_end_diverges(tiny_config: TinyConfig, tmp_path: Path) -> None:
    def loss(attention: str, rate: float, seed: int) -> float:
        return math.inf if rate > 5e-3 else -rate

    bench = Bench(tiny_config, tmp_path, loss)
    found = bench.tune("tune.lr=[1e-4,1e-3,1e-2]")
    assert tried(found["attention=full"]) == [1e-4, 1e-3, 1e-2]
    assert found["attention=full"].chosen == 1e-3


def test_a_point_that_failed_is_worst_and_is_named(
    tiny_config: TinyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would have been the best: what killed its run may not have been the rate."""
    failed = dataclasses.replace(record(1001), status="failed", cause="killed", reason="killed by SIGKILL")
    bench = Bench(tiny_config, tmp_path, valley(full=1e-2, windowed=1e-2))

    def launch(trials: list[Run]) -> None:
        bench.launch(trials)
        write_record(next(tmp_path.glob("tune/attention=full/lr=0.01/seed=1001")), failed)

    run = Run(
        overrides=["attention=full", "tune.lr=[1e-3,1e-2,0.1]", "tune.extend=0"],
        context=RunContext(variant="attention=full"),
    )
    (found,) = tune(bench.compose, [run], launch)  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines()[-1] == (
        "attention=full: optimizer.lr=0.001 of 0.001, 0.01, 0.1; it is the smallest of the grid: widen tune.lr; "
        "NOT JUDGED: 1 of 2 runs at 0.01 failed; retry=failed tries them again"
    )
    assert found.context.tuning is not None
    assert [point.get("failed") for point in found.context.tuning.points] == [None, {"1001": "killed by SIGKILL"}, None]


def test_where_all_diverged_smaller_rates_are_tried(tiny_config: TinyConfig, tmp_path: Path) -> None:
    bench = Bench(tiny_config, tmp_path, lambda attention, rate, seed: math.inf if rate > 5e-2 else rate)
    found = bench.tune("tune.lr=[1,10]")
    assert found["attention=full"].chosen == pytest.approx(1e-2)
    with pytest.raises(UserError, match=r"attention=full: no learning rate of tune\.lr ended well"):
        Bench(tiny_config, tmp_path / "b", lambda *_: math.inf).tune("tune.lr=[1,10]")


def test_several_keys_share_a_budget_and_who_lacks_one_is_told(
    tiny_config: TinyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tiny_config, tmp_path, valley(full=3e-3, windowed=3e-3))
    found = bench.tune(
        "tune.lr=[1e-3,3e-3,1e-2]", "tune.attention.window=[8,16]", "tune.optimizer.weight_decay=[0,0.1]"
    )
    full, windowed = found.values()
    assert (len(full.points), len(windowed.points)) == (6, 12)
    assert (full.lacking, windowed.lacking) == (["attention.window"], [])
    assert windowed.settings == {"optimizer.lr": 3e-3, "optimizer.weight_decay": 0.0, "attention.window": 8}
    assert "attention=full: optimizer.lr=0.003, optimizer.weight_decay=0 of 6 points; it has no attention.window" in (
        capsys.readouterr().out
    )


def test_a_number_of_trials_is_the_budget(tiny_config: TinyConfig, tmp_path: Path) -> None:
    bench = Bench(tiny_config, tmp_path, valley(full=1.0, windowed=1.0))
    found = bench.tune("tune.lr=[1e-3,3e-3,1e-2]", "tune.optimizer.weight_decay=[0,0.1]", "tune.trials=4")
    assert [len(report.points) for report in found.values()] == [4, 4]
    assert found["attention=full"].points[0]["settings"] == found["attention=windowed"].points[0]["settings"]
    assert not bench.tune("tune.lr=[1e-3,1e-2]", "tune.trials=0")


@pytest.mark.parametrize("rates", ["[0.001]", "[0.001,0.001]", "[0.001,-1.0]", "[]"])
def test_grids_that_are_none(tiny_config: TinyConfig, rates: str) -> None:
    with pytest.raises(UserError, match="must be a list of at least two different positive numbers"):
        _ = tiny_config(f"tune.lr={rates}").tune.grids


def test_tuning_seeds_are_two_at_least_and_others(tiny_config: TinyConfig) -> None:
    configs = [tiny_config("tune.lr=[0.1,0.2]", "tune.seeds=[1,7]", f"seed={seed}") for seed in (0, 1)]
    with pytest.raises(UserError, match=r"tune\.seeds: 1 would also be compared on"):
        seeds_of(configs)
    with pytest.raises(UserError, match=r"tune\.lr: one run is not tuned"):
        refuse_for_one_run(configs[0])
    for few in ("[]", "[7]", "[7,7]"):
        with pytest.raises(UserError, match=r"tune\.seeds=.*: must be two different seeds at least"):
            seeds_of([tiny_config("tune.lr=[0.1,0.2]", f"tune.seeds={few}")])


REFUSED = {
    "tune.lr=[0.1,0.2] optimizer.lr=0.1": r"tune\.lr chooses optimizer\.lr, which the command gives, too",
    "tune.optimizer.weigt_decay=[0,0.1]": r"no variant has the setting optimizer\.weigt_decay; did you mean "
    r"'optimizer\.weight_decay'",
    "tune.attention.window=[8,16]": r"tune\.attention\.window: no variant has the setting attention\.window",
    "tune.lr=[0.1,0.2] tune.optimizer.lr=[1,2]": r"tune\.lr is short for tune\.optimizer\.lr, which is given, too",
    "tune.optimizer.weight_decay=[0.1]": r"weight_decay=\[0\.1\]: must be a list of at least two different values",
    "tune.optimizer=3": r"tune\.optimizer=3: names no setting; write tune\.optimizer\.KEY",
    "tune.trainer.max_steps=[2,4]": r"tune\.trainer\.max_steps: every variant trains for as long",
    "tune.model.d_ff=[1,2,3,4,5,6] tune.model.dropout=[0,0.1,0.2,0.3,0.4,0.5]": r"has 36 points",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_tuned_is_refused(tiny_config: TinyConfig, words: str) -> None:
    run = Run(overrides=words.split())
    config = tiny_config(*run.overrides)

    def compose(run: Run) -> Composed:
        return config, Path("nowhere")

    with pytest.raises(UserError, match=REFUSED[words]):
        check_tuning([run], compose, lambda config: None)  # type: ignore[arg-type]


def test_each_value_is_checked_before_anything_is_written(tiny_config: TinyConfig) -> None:
    met: list[float] = []

    def check(config: RunConfig) -> None:
        met.append(config.options["optimizer"]["weight_decay"])
        if met[-1] > 0.5:
            raise UserError("optimizer: too large")

    def compose(run: Run) -> Composed:
        return tiny_config(*run.overrides), Path("nowhere")

    with pytest.raises(UserError, match=r"too large \[in a tuning run of the one variant\]"):
        check_tuning([Run(overrides=["tune.optimizer.weight_decay=[0,1]"])], compose, check)  # type: ignore[arg-type]
    assert met == [0.0, 1.0]


def test_shorter_runs_are_tried_out_where_rates_alone_are_tuned(tiny_config: TinyConfig) -> None:
    met: list[tuple[float, int]] = []

    def check(config: RunConfig) -> None:
        met.append((config.options["optimizer"]["lr"], config.trainer.max_steps))
        raise UserError("schedule.warmup_steps=2: must be less than the 2 steps")

    def compose(run: Run) -> Composed:
        return tiny_config(*run.overrides), Path("nowhere")

    with pytest.raises(UserError, match=r"the 2 steps \[in a tuning run of the one variant\]"):
        check_tuning([Run(overrides=["tune.lr=[0.01,0.1]", "tune.max_steps=2"])], compose, check)  # type: ignore[arg-type]
    assert met == [(0.01, 2)]


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (
            "budget.match=params tune.model.d_ff=[32,64]",
            r"with model\.d_ff=32 b would not be at equal parameters any more",
        ),
        ("budget.match=tokens tune.trainer.accumulate_grad_batches=[1,4]", r"equal tokens any more \(\+300\.0%\)"),
        ("budget.match=tokens tune.model.d_ff=[32,64]", None),
        ("budget.match=params tune.lr=[0.1,1] tune.model.dropout=[0,0.1]", None),
        ("budget.match=time tune.model.d_ff=[32,64]", None),
        ("tune.model.d_ff=[32,64]", None),
    ],
)
def test_what_a_budget_has_made_equal_stays_so(tiny_config: TinyConfig, words: str, refused: str | None) -> None:
    config, preflight = tiny_config("model.d_ff=64", *words.split()), Preflight()
    measure = UNITS[config.budget.match].measure if config.budget.match else None
    wanted = measure(config, preflight.task(config)) if measure else None
    run = Run(overrides=[], context=RunContext(variant="b", budget=BudgetReport(value=wanted, of=wanted)))

    def compose(run: Run) -> Composed:
        return config, Path("nowhere")

    with pytest.raises(UserError, match=refused) if refused else contextlib.nullcontext():
        check_equal([run], compose, preflight)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_sweep_tunes_each_variant_and_compares_without_the_tuning_runs(lab: Lab) -> None:
    """With a rate at which nothing can be learned: the loss is no number."""
    words = ["attention=full,windowed", "seed=0,1", "name=tuned", "trainer.max_steps=6", "trainer.val_check_interval=3"]
    words += ["tune.lr=[1e-3,1e-2,1e30]", "tune.seeds=[8,9]", "tune.extend=0", "trainer.log_every_n_steps=1"]
    first = lab.sweep(*words)
    assert first.status == 0, first.err
    folder = lab.folder / "outputs" / "tuned"
    trials = sorted(folder.glob(f"tune/*/*/*/{RECORD_FILE}"))
    assert len(trials) == 12
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
