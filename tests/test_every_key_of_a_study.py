"""No key of a design or of a study is accepted without effect.

The plan differs, the trials, what the supervisor does, or the comparison. Nothing is started: attempts
are stand-ins that have taken a hundred seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from synthetic import record, runs_of, study

from ablab.analysis.comparison import compare
from ablab.analysis.decisions import decide, looks_at
from ablab.config import RunConfig, conf_folder, fingerprint
from ablab.config.schema import Config, ExecutionConfig
from ablab.config.seeds import with_seeds
from ablab.config.tune import TUNABLE
from ablab.errors import UserError
from ablab.report.declared import declared_settings
from ablab.results.collect import tabulate
from ablab.results.record import Record
from ablab.results.run_context import RunContext
from ablab.results.store import write_record
from ablab.study import launch
from ablab.study.events import Observer, RunOutline
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.budget import meet_budgets
from ablab.study.planning.expand import Run, expand
from ablab.study.planning.ladder import climb
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision import supervisor
from ablab.study.supervision.resources import devices_of, side_by_side
from ablab.study.supervision.stack import Unit, units
from ablab.study.trials import pilot, tuning
from ablab.training.build import BuiltRun

pytestmark = pytest.mark.usefixtures("_sizes_are_counted_once")

TinyConfig = Callable[..., RunConfig]

OPTIONS = [path.stem for path in sorted((conf_folder() / "design").glob("*.yaml"))]

ASKED = OverridesParser.create().parse_overrides(["attention=full,lsh,topk", "activation=relu,gelu,silu", "seed=0,1"])
OTHER = {
    "zip": [["attention", "activation"]],
    "exclude": [{"attention": "topk", "activation": "silu"}],
    "variants": {"a": {"attention": "lsh"}, "b": {"attention": "topk"}},
    "placebo": "order",
    "chaos": True,
}


@pytest.mark.parametrize("option", OPTIONS)
def test_each_key_of_a_design(option: str, tiny_config: TinyConfig) -> None:
    node = tiny_config(f"design={option}").design
    own = (
        {"variants": {"a": {"attention": "full"}, "b": {"attention": "lsh"}}} if option in ("explicit", "steps") else {}
    )
    asked = ASKED[2:] if option in ("explicit", "steps") else ASKED

    def plan(**settings: Any) -> list[list[str]]:
        return [run.overrides for run in expand(asked, instantiate({**node, **own, **settings}, _convert_="all")).runs]

    others_of = OTHER | ({"exclude": [{"attention": "lsh"}]} if own else {})
    if option == "cumulative":  # has the last levels of all factors in its last step alone
        others_of["exclude"] = [{"attention": "lsh", "activation": "relu"}]
    if option in ("one_factor", "leave_one_out"):  # change one thing at a time
        others_of["exclude"] = [{"attention": "lsh"}]
    for key in node.keys() - {"_target_"}:
        assert plan(**{key: others_of[key]}) != plan(), key


# Of a study as a whole, and of each of its runs.


@dataclasses.dataclass
class Attempt:
    """One that has taken a hundred seconds, and ends; that of the first run fails."""

    unit: Unit
    placement: Any
    hang_timeout: float | None
    started: float = dataclasses.field(default_factory=lambda: time.monotonic() - 100.0)
    stopped: str | None = None
    handles: tuple[()] = ()
    orphaned, ended = False, True

    def poll(self) -> list[Any]:
        return []

    def stop(self, cause: str = "", reason: str = "") -> None:
        self.stopped = cause

    def kill(self) -> None: ...

    def close(self) -> list[Record]:
        failed = self.unit.head.info.index == 0
        return [record(status="failed" if failed else "ok", cause=self.stopped or ("error" if failed else None))]


def outcome(config: RunConfig, folder: Path) -> Any:
    """What the supervisor makes of two runs, of which the first fails, each attempt after a hundred seconds."""
    seen: list[Any] = []

    class Seen(Observer):
        def started(self, run: RunOutline, attempt: int) -> None:
            seen.append(("started", run.index, attempt))

        def ended(self, run: RunOutline, record: Record, seconds: float) -> None:
            seen.append(("ended", run.index, record.status, record.cause))

    def attempt(run: Unit, placement: Any, hang_timeout: float | None) -> Attempt:
        seen.append(hang_timeout)
        return Attempt(run, placement, hang_timeout)

    infos = [RunOutline(index=index, variant=str(index), task="a", seed=0, steps=1) for index in range(2)]
    runs = [PlannedRun(info=info, config=config, folder=folder / str(info.index)) for info in infos]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "Attempt", attempt)
        patch.setattr(supervisor, "BACK_OFF_S", 0.0)
        patch.setattr(supervisor, "POLL_S", 0.0)
        supervisor.Supervisor(config.execution, Seen(), names=()).run(runs)
    return seen


def left_to_run(config: RunConfig, folder: Path) -> Any:
    """Which runs are started where one has failed before, with all of its attempts made."""
    failed = record(status="failed", cause="error", fingerprint=fingerprint(config), attempts=9, corpus=None)
    write_record(folder / "failed", failed)
    started: list[int] = []

    class Told:
        stopped_by = None

        def __init__(self, *_: Any) -> None: ...

        def run(self, runs: list[Unit]) -> dict[int, Record]:
            started.extend(run.info.index for unit in runs for run in unit.runs)
            return {}

    info = RunOutline(index=0, variant="", task="a", seed=0, steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "Supervisor", Told)
        patch.setattr(launch, "freeze_code", lambda configs: None)
        launch.launch([PlannedRun(info=info, config=config, folder=folder / "failed")], config.execution, Observer())
    return started


def together(config: RunConfig, folder: Path) -> Any:
    """How many runs are started in one process, of a variant on two seeds."""
    infos = [RunOutline(index=seed, variant="", task="a", seed=seed, steps=1) for seed in range(2)]
    runs = [PlannedRun(info=i, config=replace(config, seed=i.seed), folder=folder / str(i.seed)) for i in infos]
    return [len(unit.runs) for unit in units(runs, runs, Preflight().may_stack)]


def two_variants(config: RunConfig) -> list[Run]:
    words = [["activation=relu"], ["activation=swiglu"]]
    return [Run(overrides=each, context=replace(Run(overrides=[]).context, variant=each[0])) for each in words]


def budgeted(config: RunConfig, folder: Path) -> Any:
    configs = [config, replace(config, options=config.options | {"model": config.options["model"] | {"d_ff": 100}})]
    return [(run.overrides, run.context.budget) for run in meet_budgets(two_variants(config), configs, Preflight())[0]]


def trials(config: RunConfig, folder: Path) -> Any:
    """The runs that are made before those that are compared."""
    asked: list[Any] = []

    class AskedError(Exception):
        pass

    def launched(runs: list[Run]) -> None:
        asked.extend(run.overrides for run in runs)
        raise AskedError

    def compose(run: Run) -> tuple[RunConfig, Path]:
        return config, folder

    for make in (pilot.match_time, tuning.tune):
        with pytest.raises(AskedError) if _has_trials(config, make) else contextlib.nullcontext():
            make(compose, two_variants(config), launched)  # type: ignore[arg-type]
    return asked


def climbed(config: RunConfig, folder: Path) -> Any:
    """The runs at each size of a ladder, and what their records will say of it."""

    def compose(run: Run) -> tuple[RunConfig, Path]:
        pairs = [override.split("=", 1) for override in run.overrides]
        made = config.with_values({key: yaml.safe_load(value) for key, value in pairs if "." in key})
        for axis, option in ((key, value) for key, value in pairs if "." not in key):
            node = yaml.safe_load((conf_folder() / axis / f"{option}.yaml").read_text())
            made = replace(made, options=made.options | {axis: node}, axes=made.axes | {axis: option})
        return made, folder

    runs = climb([Run(overrides=[], context=RunContext(variant="a"))], compose, Preflight(), None)  # type: ignore[arg-type]
    return [(run.overrides, run.context.ladder) for run in runs]


def _has_trials(config: RunConfig, make: Any) -> bool:
    return bool(config.tune.grids) if make is tuning.tune else config.budget.match == "time"


def compared(config: RunConfig, folder: Path) -> Any:
    runs = study({"relu": [1.0, 1.1, 1.3], "gelu": [1.01, 1.12, 1.32]})
    for each in runs:
        # which every record declares
        each.config["comparison"] = {"baseline": config.comparison.baseline, "within": config.comparison.within}
        each.metrics["test_loss"] = each.metrics["val_loss"] * each.seed
        each.last = {"val_loss": [each.metrics["val_loss"], each.metrics["val_loss"] * each.seed, 1.0]}
    found = compare(
        tabulate([(Path(f"runs/{index}"), each) for index, each in enumerate(runs)]),
        **declared_settings(config.comparison),
    )
    return repr(found.items)


def model_of(config: RunConfig, folder: Path) -> Any:
    values = BuiltRun.of(config).build_model().state_dict()
    return {name: value.tolist() for name, value in values.items()}


def refused(config: RunConfig, folder: Path) -> Any:
    try:
        Preflight().check(config)
    except UserError as error:
        return str(error)
    return None


def looked_at(config: RunConfig, folder: Path) -> Any:
    return with_seeds(["seed=auto"], 0, dataclasses.asdict(config.seeds)), config.seeds.every_look


def decided_by(config: RunConfig, folder: Path) -> Any:
    """What is decided of a variant that is better, and of one that makes no difference."""
    found = study({"relu": [1.0, 1.1, 1.3, 1.2], "gelu": [0.5, 0.61, 0.79, 0.7], "silu": [1.01, 1.1, 1.29, 1.2]})
    return [each.how for each in decide(runs_of(found), config.seeds, config.comparison)]


def itself(key: str) -> Callable[[RunConfig, Path], Any]:
    """For what is shown and looked for by that very name: the study's folder, the title of its report."""
    return lambda config, folder: config.shown()[key]


Seen = Callable[[RunConfig, Path], Any]
# Key -> what shows its effect, two values of it, and what is given beside.
LADDER = {"ladder.sizes": [16, 32], "model.n_heads": 2}
STUDY: dict[str, tuple[Seen, Any, Any, dict[str, Any]]] = {
    "jobs": (lambda c, _: side_by_side([c], c.execution, 4), None, 3, {}),
    "devices_per_run": (lambda c, _: devices_of(c, 4), None, 2, {"trainer.accelerator": "gpu"}),
    "runs_per_device": (
        lambda c, _: side_by_side([c], c.execution, 4),
        1,
        2,
        {"trainer.accelerator": "gpu"},
    ),
    "stack": (together, None, "seeds", {}),
    "retries": (outcome, 0, 2, {}),
    "retry": (left_to_run, None, "failed", {}),
    "timeout": (outcome, 1000.0, 50.0, {"retries": 0}),
    "hang_timeout": (outcome, 600.0, 5.0, {}),
    "on_failure": (outcome, "continue", "stop", {"retries": 0, "jobs": 1}),
    "continue_from": (refused, None, "nowhere", {}),
    "seed": (model_of, 0, 1, {}),
    "name": (itself("name"), "a", "b", {}),
    "question": (itself("question"), "", "why?", {}),
    "budget.match": (budgeted, None, "params", {}),
    "budget.reference": (budgeted, None, "activation=swiglu", {"budget.match": "params"}),
    "budget.adjust": (budgeted, None, "d_ff", {"budget.match": "flops"}),
    "budget.length": (budgeted, 8192, 64, {"budget.match": "kv"}),
    "budget.pilot_steps": (trials, 100, 50, {"budget.match": "time"}),
    "tune.lr": (trials, None, [0.1, 0.01], {}),
    "tune.seeds": (trials, [1000], [7], {"tune.lr": [0.1, 0.01]}),
    "tune.max_steps": (trials, None, 7, {"tune.lr": [0.1, 0.01]}),
    "tune.extend": (lambda c, _: c.tune.extend, 2, 0, {}),
    "tune.trials": (trials, None, 0, {"tune.lr": [0.1, 0.01]}),
    "comparison.baseline": (compared, None, "activation=gelu", {}),
    "comparison.metric": (compared, None, "val_accuracy", {}),
    "comparison.margin": (compared, None, 0.5, {}),
    "comparison.last_k": (compared, 1, 2, {}),
    "comparison.split": (compared, None, "test", {}),
    "comparison.intervals": (compared, "single", "simultaneous", {}),
    "comparison.within": (compared, [], ["activation"], {}),
    "ladder.sizes": (climbed, None, [16, 24], {}),
    "ladder.depth": (climbed, "scaled", "fixed", LADDER),
    "ladder.aspect_ratio": (climbed, None, 8.0, LADDER),
    "ladder.heads": (climbed, "scaled", "fixed", LADDER),
    "ladder.d_head": (climbed, None, 4, LADDER),
    "ladder.tokens_per_parameter": (climbed, 20.0, None, LADDER),
    "ladder.batch": (climbed, "fixed", "compute", LADDER),
    "ladder.rate": (climbed, "auto", "width", LADDER),
    "ladder.rate_exponent": (climbed, None, -0.5, LADDER | {"ladder.rate": "compute"}),
    "ladder.schedule": (climbed, "warmup_stable_decay", None, LADDER),
    "ladder.anneal_at": (climbed, [0.5], [], LADDER),
    "seeds.max": (looked_at, 10, 12, {}),
    "seeds.looks": (looked_at, [3, 5, 8, 10], [4, 10], {}),
    "seeds.stop": (decided_by, ["resolved"], "futile", {}),
    "seeds.spending": (lambda c, _: looks_at(c.seeds, 0.05), "pocock", "anytime", {}),
}


def test_every_key_of_a_study_is_looked_at() -> None:
    found = set()
    for known in dataclasses.fields(Config):
        kind = known.default_factory
        if known.name == "design" or known.name in {path.name for path in conf_folder().iterdir()}:
            continue
        within = dataclasses.is_dataclass(kind)
        found |= {f"{known.name}.{each.name}" for each in dataclasses.fields(kind)} if within else {known.name}  # type: ignore[arg-type]
    assert found - {f"tune.{axis}" for axis in TUNABLE} == set(STUDY)  # below which is whatever is tuned
    assert {each.name for each in dataclasses.fields(ExecutionConfig)} <= set(STUDY)


@pytest.mark.parametrize("key", STUDY)
def test_each_key_of_a_study(key: str, tiny_config: TinyConfig, tmp_path: Path) -> None:
    seen, one, other, beside = STUDY[key]
    config = tiny_config("trainer.max_steps=400").with_values(beside)
    found = [seen(config.with_values({key: value}), tmp_path / str(n)) for n, value in enumerate((one, other))]
    assert found[0] != found[1]
