"""A search beside Optuna's own loop: the same trials, their best, and the study that compares the variants at it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from synthetic import record

from ablab.cli import main
from ablab.results.record import Record
from ablab.study.plan_file import PlannedRun
from ablab.study.searching import search

optuna = pytest.importorskip("optuna", reason="the extra `optuna`")

Searched = Callable[..., tuple[int, str, list[PlannedRun]]]

TRIALS = 9
BEST = {"full": -2.0, "windowed": -3.0}  # the logarithms of rates, to the base 10


def loss_at(option: str, rate: float, seed: int = 0) -> float:
    """A bowl in the logarithm of the rate, whose place differs between variants."""
    return 2.0 + (math.log10(rate) - BEST[option]) ** 2 + 0.1 * seed


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Searched:
    """searched("seed=100"): how a search of a rate for two variants ends, what it says, and the runs it makes.

    Nothing is trained: a run's loss is `loss_at` its rate.
    """
    made: list[PlannedRun] = []
    status: dict[str, str] = {}

    def carry_out(runs: Sequence[PlannedRun], *rest: Any) -> tuple[dict[int, Record], None]:
        found = {}
        for run in runs:
            option, rate = run.config.axes["attention"], run.config.options["optimizer"]["lr"]
            ended = "diverged" if rate > 0.03 and status.get("above") == "diverged" else "ok"
            found[run.info.index] = record(run.config.seed, loss_at(option, rate, run.config.seed), status=ended)
        made.extend(runs)
        return found, None

    def command(*words: str, above: str = "ok") -> tuple[int, str, list[PlannedRun]]:
        made.clear()
        status["above"] = above
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            main(["-m", "hydra/sweeper=optuna", *words, "name=search"])
        return int(ended.value.code or 0), "".join(capsys.readouterr()), list(made)

    monkeypatch.chdir(tmp_path)
    for name in ("argv", "path"):
        monkeypatch.setattr(sys, name, [*getattr(sys, name)])
    monkeypatch.setattr(search, "carry_out", carry_out)
    monkeypatch.setattr(search, "warm_up", lambda: None)
    return command


def rates_of(runs: Sequence[PlannedRun], option: str) -> list[float]:
    return [run.config.options["optimizer"]["lr"] for run in runs if run.config.axes["attention"] == option]


def by_optuna(option: str, diverges_above: float = math.inf) -> list[float]:
    """The rates that Optuna's own loop tries."""
    tried: list[float] = []

    def objective(trial: Any) -> float:
        rate = float(f"{trial.suggest_float('lr', 1e-4, 1e-1, log=True):.4g}")
        tried.append(rate)
        if rate > diverges_above:
            raise optuna.TrialPruned
        return loss_at(option, rate, 100)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=5, seed=0))
    study.optimize(objective, n_trials=TRIALS)
    return tried


ASKED_AT_ONCE = (
    "hydra.sweeper.n_trials=7",
    "hydra.sweeper.n_jobs=3",
    "hydra.sweeper.sampler.n_startup_trials=2",
)
WORDS = ("attention=full,windowed", "optimizer.lr=tag(log, interval(1e-4, 1e-1))", f"hydra.sweeper.n_trials={TRIALS}")


def test_trials_are_those_of_optunas_own_loop_and_the_study_has_the_best(
    searched: Searched,
) -> None:
    status, said, made = searched(*WORDS, "seed=100", "model.dropout=0.1")
    assert status == 0, said
    assert [run.info.index for run in made] == [*range(2 * TRIALS)]
    assert made[2].folder == Path("outputs/search/attention=full/trial=1/seed=100")
    written = yaml.safe_load(Path("outputs/search/study/best.yaml").read_text())
    for option in BEST:
        rates = rates_of(made, option)
        assert rates == by_optuna(option)
        best = min(rates, key=partial(loss_at, option))
        assert written["design"]["variants"][f"attention={option}"] == {"attention": option, "optimizer.lr": best}
        assert f"attention={option}: optimizer.lr={best}, val_loss {loss_at(option, best, 100):.4f} in trial" in said
    assert written["hydra"]["sweeper"]["params"] == {"model.dropout": "0.1", "seed": "101,102,103,104,105"}
    assert said.endswith("ablab --config-dir outputs/search -m study=best\n")


def test_a_trial_is_the_mean_of_its_seeds_and_one_that_diverged_is_avoided(
    searched: Searched,
) -> None:
    status, said, made = searched(*WORDS, "seed=99,101", above="diverged")
    assert status == 0, said
    assert rates_of(made, "full")[::2] == rates_of(made, "full")[1::2]
    assert rates_of(made, "full")[::2] == by_optuna("full", diverges_above=0.03)
    assert max(rates_of(made, "full")) > 0.03  # or none has diverged


def test_trials_that_are_asked_for_at_once_are_told_together(searched: Searched) -> None:
    status, said, made = searched("optimizer.lr=tag(log, interval(1e-4, 1e-1))", *ASKED_AT_ONCE, "seed=100")
    assert status == 0, said
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=2, seed=0))
    space = {"optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)}
    tried = []
    for size in (3, 3, 1):
        trials = [study.ask(space) for _ in range(size)]
        rates = [float(f"{trial.params['optimizer.lr']:.4g}") for trial in trials]
        for trial, rate in zip(trials, rates, strict=True):
            study.tell(trial, loss_at("full", rate, 100))
        tried += rates
    assert rates_of(made, "full") == tried
    assert "of each variant" not in said
    assert not Path("outputs/search/study").exists()  # there is nothing to compare


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["attention.window=range(8,32,8)"], "attention.window"),  # which attention=full has not
        (["optimizer.lr=interval(-1, 1)"], "optimizer.lr"),
        (["optimizer.lr=interval(0.1, 1)", "seed=auto"], "seed=auto: a search has the seeds that it is given"),
        (["optimizer.lr=interval(0.1, 1)", "tune.lr=[0.1,1]"], "tune.lr: Optuna searches here; leave one of them out"),
        (["optimizer.lr=interval(0.1, 1)", "tune.model.dropout=[0,0.1]"], "tune.model.dropout: Optuna searches here"),
        (["optimizer.lr=interval(0.1, 1)", "budget.match=flops"], "budget.match=flops: a search compares nothing"),
        (["optimizer.lr=interval(0.1, 1)", "design.chaos=true"], "design.chaos: a search compares nothing"),
        (["optimizer.lr=interval(0.1, 1)", "task=source_text,parity"], "task: a search is of one task"),
        (["optimizer.lr=interval(0.1, 1)", "study=quickstart"], "study=quickstart: a search takes all that it varies"),
        (["optimizer.lr=interval(0.1, 1)", "hydra.sweeper.n_trials=0"], "n_trials=0: must be 1 at least"),
        (["optimizer.lr=interval(0.1, 1)", "hydra/launcher=basic"], "a search is carried out by ablab's own launcher"),
    ],
)
def test_what_is_no_search_is_refused_before_anything_is_written(
    searched: Searched, words: list[str], line: str, tmp_path: Path
) -> None:
    status, said, made = searched("attention=full,windowed", *words)
    assert (status, made, line in said, said.count("\n")) == (2, [], True, 1), said
    assert [*tmp_path.iterdir()] == []
