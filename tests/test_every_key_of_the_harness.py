"""No key of strategies, trainer, loggers, callbacks, designs or studies is accepted without effect, either.

What is compared is what is built of it: the strategy, the Trainer's arguments, loggers and callbacks with all that they
know, the plan that a design gives, and what each key of a study decides. What is built has to use what it is told, too.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from other_values import hint_of, others
from synthetic import record, study

from ablab.analysis.comparison import compare
from ablab.config import RunConfig, conf_folder, fingerprint
from ablab.config.schema import Config, ExecutionConfig
from ablab.errors import UserError
from ablab.report.context import declared_settings
from ablab.results.collect import tabulate
from ablab.results.record import Record
from ablab.results.store import write_record
from ablab.study import launch
from ablab.study.events import Observer, RunOutline
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.budget import meet_budgets
from ablab.study.planning.expand import Run, expand
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision import supervisor
from ablab.study.supervision.resources import devices_of
from ablab.study.trials import pilot, tuning
from ablab.training import trainer as trainers
from ablab.training.build import BuiltRun, build_strategy
from ablab.training.callback_group import build_callbacks
from ablab.training.checkpoint_list import Origin
from ablab.training.loggers import wandb
from ablab.training.loggers.base import RunInfo
from ablab.training.loggers.others import build_logger
from ablab.training.strategies.base import Parallel

TinyConfig = Callable[..., RunConfig]

# Keys that change nothing of what is built, and what they change.
ELSEWHERE = {
    "strategy.processes": "how many processes a run starts, `RunConfig.processes`",
    "strategy.data_parallel_size": "nothing: it is what the other size leaves, and any other is refused",
    "trainer.devices": "the processes of a strategy of several; see below",
    "callbacks.*.observer": "whether a callback is part of a run's identity; see below",
}
# What the values of keys are tried with, where not any other one will do.
VALUES: dict[str, list[Any]] = {
    "strategy.tensor_parallel_size": [4],
    "trainer.accelerator": ["gpu"],
    "trainer.max_time": ["00:00:10:00"],
    "trainer.profiler": ["simple"],
    "callbacks.early_stopping.monitor": ["val_accuracy"],
    "callbacks.early_stopping.mode": ["max"],
    "callbacks.learning_rate_monitor.logging_interval": [None],
    "logger.wandb.tags": [["a"]],
    "logger.mlflow.tags": [{"a": "b"}],
}
BESIDE = {"hybrid": ("trainer.devices=8",), "tensor": ("model.n_heads=4",)}
_PLAIN = (str, bytes, int, float, type(None), torch.dtype, torch.device, Path)
_LEVELS = 7


def names(axis: str, *without: str) -> list[str]:
    return [path.stem for path in sorted((conf_folder() / axis).glob("*.yaml")) if path.stem not in without]


def state(value: Any, level: int = _LEVELS) -> Any:
    """All that an object knows, as plain data, so many levels deep."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, dict):
        return {str(key): state(each, level - 1) for key, each in value.items()} if level else "..."
    if isinstance(value, list | tuple):
        return [state(each, level - 1) for each in value] if level else "..."
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, types.FunctionType):
        within = [cell.cell_contents for cell in value.__closure__ or ()]
        return [value.__qualname__, state(within, level - 1) if level else "..."]
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return [name, state(vars(value), level - 1) if level and hasattr(value, "__dict__") else ""]


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def idle_keys(
    node: dict[str, Any], prefix: str, make: Callable[[str, Any], Any], before: Any, hints: Any
) -> Iterator[str]:
    """The keys of a node of which no other valid value makes something else."""
    for key, value in node.items():
        general = re.sub(r"^callbacks\.\w+\.", "callbacks.*.", f"{prefix}.{key}")
        if key.startswith("_") or {f"{prefix}.{key}", general} & set(ELSEWHERE):
            continue
        made = []
        for other in VALUES.get(f"{prefix}.{key}") or others(value, hints(key)):
            try:
                made.append(make(key, other))
            except (UserError, ValueError):
                continue
        assert made, f"no other value is taken by {prefix}.{key}"
        if all(each == before for each in made):
            yield key


@pytest.mark.parametrize("option", names("strategy"))
def test_each_key_of_a_strategy(option: str, tiny_config: TinyConfig) -> None:
    """Each is known to what is built, which uses by that name what it knows."""
    config = tiny_config(f"strategy={option}", *BESIDE.get(option, ()))
    built = build_strategy(config)

    def make(key: str, value: Any) -> Any:
        return state(build_strategy(config.with_values({f"strategy.{key}": value})))

    node = {key: value for key, value in config.options["strategy"].items() if key != "processes"}
    idle = idle_keys(node, "strategy", make, state(built), lambda key: hint_of(node, key))
    assert list(idle) == []
    if not isinstance(built, Parallel):  # one of Lightning's, by name
        return
    code = "\n".join({inspect.getsource(sys.modules[each.__module__]) for each in type(built).__mro__[:-1]})
    for key in node.keys() - {"_target_", "data_parallel_size"}:
        after = [make(key, other) for other in _taken(make, key, node)]
        known = set().union(*(changed(state(built)[1], each[1]) for each in after))
        assert any(len(re.findall(rf"\.{name}\b", code)) > 1 for name in known), key


def _taken(make: Callable[[str, Any], Any], key: str, node: dict[str, Any]) -> Iterator[Any]:
    for other in VALUES.get(f"strategy.{key}") or others(node[key], hint_of(node, key)):
        try:
            make(key, other)
        except (UserError, ValueError):
            continue
        yield other


def test_each_key_of_the_trainer(tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("strategy=ddp")
    built = BuiltRun.of(config)
    monkeypatch.setattr(trainers, "Trainer", lambda **arguments: arguments)

    def arguments(config: RunConfig) -> Any:
        run = replace(built, config=config)
        return state(trainers.build_trainer(run, tmp_path, [], [], Origin(run="a", corpus="b")))

    def make(key: str, value: Any) -> Any:
        return arguments(config.with_values({f"trainer.{key}": value}))

    node = config.options["trainer"]
    assert list(idle_keys(node, "trainer", make, arguments(config), lambda key: hint_of(node, key))) == []


def test_devices_are_those_of_a_strategy_of_several(tiny_config: TinyConfig) -> None:
    assert tiny_config("strategy=ddp", "trainer.devices=4").processes == 4
    assert tiny_config("strategy=ddp").processes == 2


@pytest.mark.parametrize("option", names("logger", "all", "csv"))
def test_each_key_of_a_logger(
    option: str, tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of W&B's, what its run is begun with."""

    class Begun:
        def __init__(self, *args: Any, **told: Any) -> None:
            self.args, self.told = args, told

        def define_metric(self, *args: Any, **settings: Any) -> None: ...

    if option in ("aim", "mlflow"):
        pytest.importorskip(option, reason="the extra of that name")
    monkeypatch.setattr(wandb, "begin", Begun)
    node = tiny_config(f"logger={option}").options["logger"][option]
    run = RunInfo(folder=tmp_path, study="a", variant="b", seed=0, config={})

    def make(key: str, value: Any) -> Any:
        return state(build_logger(option, {**node, key: value}, run))

    before = state(build_logger(option, node, run))
    assert list(idle_keys(node, f"logger.{option}", make, before, lambda key: hint_of(node, key))) == []


@pytest.mark.parametrize("option", names("callbacks", "none"))
def test_each_key_of_a_callback(option: str, tiny_config: TinyConfig) -> None:
    nodes = tiny_config(f"callbacks={option}").options["callbacks"]
    node = nodes[option]

    def make(key: str, value: Any) -> Any:
        return state(build_callbacks({option: {**node, key: value}}), 12)

    before = state(build_callbacks(nodes), 12)
    assert list(idle_keys(node, f"callbacks.{option}", make, before, lambda key: hint_of(node, key))) == []


def test_an_observer_is_no_part_of_the_identity(tiny_config: TinyConfig) -> None:
    for option in names("callbacks", "none"):
        nodes = tiny_config(f"callbacks={option}").options["callbacks"]
        config = tiny_config(f"callbacks={option}")
        other = config.with_values({f"callbacks.{option}.observer": not nodes[option].get("observer", False)})
        assert fingerprint(config) != fingerprint(other)


# Of designs.

ASKED = OverridesParser.create().parse_overrides(["attention=full,lsh,topk", "activation=relu,gelu,silu", "seed=0,1"])
OTHER = {
    "zip": [["attention", "activation"]],
    "exclude": [{"attention": "topk", "activation": "silu"}],
    "variants": {"a": {"attention": "lsh"}, "b": {"attention": "topk"}},
}


@pytest.mark.parametrize("option", names("design"))
def test_each_key_of_a_design(option: str, tiny_config: TinyConfig) -> None:
    node = tiny_config(f"design={option}").design
    own = {"variants": {"a": {"attention": "full"}, "b": {"attention": "lsh"}}} if option == "explicit" else {}
    asked = ASKED[2:] if option == "explicit" else ASKED

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

    run: PlannedRun
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

    def close(self) -> Record:
        failed = self.run.info.index == 0
        return record(status="failed" if failed else "ok", cause=self.stopped or ("error" if failed else None))


def outcome(config: RunConfig, folder: Path) -> Any:
    """What the supervisor makes of two runs, of which the first fails, each attempt after a hundred seconds."""
    seen: list[Any] = []

    class Seen(Observer):
        def started(self, run: RunOutline, attempt: int) -> None:
            seen.append(("started", run.index, attempt))

        def ended(self, run: RunOutline, record: Record, seconds: float) -> None:
            seen.append(("ended", run.index, record.status, record.cause))

    def attempt(run: PlannedRun, placement: Any, hang_timeout: float | None) -> Attempt:
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

        def run(self, runs: list[PlannedRun]) -> dict[int, Record]:
            started.extend(run.info.index for run in runs)
            return {}

    info = RunOutline(index=0, variant="", task="a", seed=0, steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "Supervisor", Told)
        patch.setattr(launch, "freeze_code", lambda configs: None)
        launch.launch([PlannedRun(info=info, config=config, folder=folder / "failed")], config.execution, Observer())
    return started


def runs_of(config: RunConfig) -> list[Run]:
    words = [["activation=relu"], ["activation=swiglu"]]
    return [Run(overrides=each, context=replace(Run(overrides=[]).context, variant=each[0])) for each in words]


def budgeted(config: RunConfig, folder: Path) -> Any:
    configs = [config, replace(config, options=config.options | {"model": config.options["model"] | {"d_ff": 100}})]
    return [run.overrides for run in meet_budgets(runs_of(config), configs, Preflight())[0]]


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
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pilot, "check_pilots", lambda configs: None)
            with pytest.raises(AskedError) if _has_trials(config, make) else pytest.MonkeyPatch.context():
                make(compose, runs_of(config), launched)  # type: ignore[arg-type]
    return asked


def _has_trials(config: RunConfig, make: Any) -> bool:
    return bool(config.tune.lr) if make is tuning.tune else config.budget.match == "time"


def compared(config: RunConfig, folder: Path) -> Any:
    runs = study({"relu": [1.0, 1.1, 1.3], "gelu": [1.01, 1.12, 1.32]})
    for each in runs:
        each.config["comparison"] = {"baseline": config.comparison.baseline}  # which every record declares
        each.last = {"val_loss": [each.metrics["val_loss"], each.metrics["val_loss"] * each.seed, 1.0]}
    found = compare(
        tabulate([(Path(f"runs/{index}"), each) for index, each in enumerate(runs)]),
        **declared_settings(config.comparison),
    )
    return repr(found.items)


def model_of(config: RunConfig, folder: Path) -> Any:
    return state(BuiltRun.of(config).build_model().state_dict())


def refused(config: RunConfig, folder: Path) -> Any:
    try:
        Preflight().check(config)
    except UserError as error:
        return str(error)
    return None


def itself(key: str) -> Callable[[RunConfig, Path], Any]:
    """For what is shown and looked for by that very name: the study's folder, the title of its report."""
    return lambda config, folder: config.shown()[key]


Seen = Callable[[RunConfig, Path], Any]
# Key -> what shows its effect, two values of it, and what is given beside.
STUDY: dict[str, tuple[Seen, Any, Any, dict[str, Any]]] = {
    "jobs": (lambda c, _: supervisor.side_by_side([c], c.execution, 4), None, 3, {}),
    "devices_per_run": (lambda c, _: devices_of(c, 4), None, 2, {"trainer.accelerator": "gpu"}),
    "runs_per_device": (
        lambda c, _: supervisor.side_by_side([c], c.execution, 4),
        1,
        2,
        {"trainer.accelerator": "gpu"},
    ),
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
    "budget.pilot_steps": (trials, 100, 50, {"budget.match": "time"}),
    "tune.lr": (trials, None, [0.1, 0.01], {}),
    "tune.seeds": (trials, [1000], [7], {"tune.lr": [0.1, 0.01]}),
    "tune.max_steps": (trials, None, 7, {"tune.lr": [0.1, 0.01]}),
    "comparison.baseline": (compared, None, "activation=gelu", {}),
    "comparison.metric": (compared, None, "val_accuracy", {}),
    "comparison.margin": (compared, None, 0.5, {}),
    "comparison.last_k": (compared, 1, 2, {}),
}


def test_every_key_of_a_study_is_looked_at() -> None:
    found = set()
    for known in dataclasses.fields(Config):
        kind = known.default_factory
        if known.name == "design" or known.name in {path.name for path in conf_folder().iterdir()}:
            continue
        within = dataclasses.is_dataclass(kind)
        found |= {f"{known.name}.{each.name}" for each in dataclasses.fields(kind)} if within else {known.name}  # type: ignore[arg-type]
    assert found == set(STUDY)
    assert {each.name for each in dataclasses.fields(ExecutionConfig)} <= set(STUDY)


@pytest.mark.parametrize("key", STUDY)
def test_each_key_of_a_study(key: str, tiny_config: TinyConfig, tmp_path: Path) -> None:
    seen, one, other, beside = STUDY[key]
    config = tiny_config("trainer.max_steps=400").with_values(beside)
    found = [seen(config.with_values({key: value}), tmp_path / str(n)) for n, value in enumerate((one, other))]
    assert found[0] != found[1]
