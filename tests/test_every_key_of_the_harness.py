"""No key of strategies, trainer, loggers or callbacks is accepted without effect, either.

What is compared is what is built of it: the strategy, the Trainer's arguments, loggers and callbacks with all that they
know. What is built has to use what it is told, too.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from other_values import hint_of, others

from ablab.config import RunConfig, conf_folder, fingerprint
from ablab.errors import UserError
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
    "trainer.compile": "what blocks are called by in training, see training/test_compile.py",
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
