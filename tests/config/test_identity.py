"""A run's identity changes with everything that changes the run, and with nothing else."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from omegaconf import OmegaConf

import ablab.config.identity
from ablab.config import fingerprint, freeze
from ablab.errors import UserError

Frozen = dict[str, Any]


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every value in nested dicts."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def changed(config: Frozen, path: tuple[str, ...]) -> Frozen:
    """A copy of `config` with another value at `path`."""
    twin = copy.deepcopy(config)
    node = twin
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = "something else"
    return twin


@pytest.fixture
def config(tiny_config: Callable[..., Frozen]) -> Frozen:
    return tiny_config("attention=windowed", "logger=tensorboard")


NO_MATTER = {
    *("budget", "tune", "name", "question", "comparison", "overrides", "logger", "axes.logger", "axes.callbacks"),
    *(
        "design",
        "jobs",
        "devices_per_run",
        "runs_per_device",
        "retries",
        "retry",
        "timeout",
        "hang_timeout",
        "on_failure",
    ),
}


def test_every_setting_counts_but_names_and_loggers(config: Frozen) -> None:
    identity = fingerprint(config)
    paths = list(leaves(config))
    assert len(paths) > 40
    for path in paths:
        matters = not {path[0], ".".join(path)} & NO_MATTER
        assert (fingerprint(changed(config, path)) != identity) == matters, path


def test_a_setting_of_that_name_deeper_down_counts(config: Frozen) -> None:
    config["task"]["name"] = "a"
    identity = fingerprint(config)
    assert fingerprint(changed(config, ("task", "name"))) != identity


def test_the_version_counts(config: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = fingerprint(config)
    monkeypatch.setattr(ablab.config.identity, "__version__", "999")
    assert fingerprint(config) != identity


def test_the_order_of_keys_does_not_count(config: Frozen) -> None:
    assert fingerprint(dict(reversed(config.items()))) == fingerprint(config)


def test_it_is_the_same_in_every_process(config: Frozen) -> None:
    code = "import json, sys; from ablab.config import fingerprint; print(fingerprint(json.load(sys.stdin)))"
    for hash_seed in ("0", "12345"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(config),
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == fingerprint(config)


def frozen(choices: dict[str, str | None] | None = None, asked: list[str] | None = None, **keys: Any) -> Frozen:
    return freeze(OmegaConf.create(keys), choices or {}, asked or [])


def test_interpolations_are_resolved_and_choices_kept() -> None:
    config = frozen(
        {"attention": "lsh", "recipe": None, "hydra/launcher": "ablab"},
        ["attention=lsh"],
        trainer={"max_steps": 7},
        schedule={"total_steps": "${trainer.max_steps}"},
    )
    assert config["schedule"] == {"total_steps": 7}
    assert config["axes"] == {"attention": "lsh"}
    assert config["overrides"] == ["attention=lsh"]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"sed": 1}, "sed: no such setting; did you mean 'seed'?"),
        ({"task": {"path": "???"}}, "task.path must be given: add task.path=... to the command"),
        ({"schedule": {"total_steps": "${nowhere.at_all}"}}, "schedule.total_steps: "),
        ({"name": ""}, "name: must not be empty"),
    ],
)
def test_what_cannot_be_frozen_is_said_in_one_line(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        frozen(**keys)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
