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
from ablab.config import RunConfig, fingerprint, resolve
from ablab.config.identity import differences, identity_of, what_differs
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
def config(tiny_config: Callable[..., RunConfig]) -> Frozen:
    return tiny_config("attention=windowed", "logger=tensorboard").to_dict()


NO_MATTER = {
    *(
        "budget",
        "tune",
        "seeds",
        "ladder",
        "name",
        "question",
        "comparison",
        "overrides",
        "logger",
        "axes.logger",
        "axes.callbacks",
    ),
    *("trainer.profiler", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
    *(
        "design",
        "jobs",
        "devices_per_run",
        "runs_per_device",
        "stack",
        "retries",
        "retry",
        "timeout",
        "hang_timeout",
        "on_failure",
    ),
}


def test_every_setting_counts_but_names_and_loggers(config: Frozen) -> None:
    identity = identity_of(config)
    paths = list(leaves(config))
    assert len(paths) > 40
    for path in paths:
        matters = not {path[0], ".".join(path)} & NO_MATTER
        assert (identity_of(changed(config, path)) != identity) == matters, path


def test_compiling_counts_where_it_is_asked_for(config: Frozen) -> None:
    """A run from before there was the key is the same run."""
    assert config["trainer"]["compile"] is False
    before = {**config, "trainer": {key: value for key, value in config["trainer"].items() if key != "compile"}}
    asked = {
        value: {**config, "trainer": {**config["trainer"], "compile": value}} for value in (True, "reduce-overhead")
    }
    assert identity_of(before) == identity_of(config)
    assert list(differences(before, config)) == []
    assert len({identity_of(each) for each in (config, *asked.values())}) == 3
    assert what_differs(asked[True], before) == "trainer.compile=True, not False"


def test_a_setting_of_that_name_deeper_down_counts(config: Frozen) -> None:
    config["task"]["name"] = "a"
    identity = identity_of(config)
    assert identity_of(changed(config, ("task", "name"))) != identity


def test_the_version_counts(config: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = identity_of(config)
    monkeypatch.setattr(ablab.config.identity, "__version__", "999")
    assert identity_of(config) != identity


def test_the_order_of_keys_does_not_count(config: Frozen) -> None:
    assert identity_of(dict(reversed(config.items()))) == identity_of(config)


def test_a_run_is_what_its_config_says(tiny_config: Callable[..., RunConfig]) -> None:
    run = tiny_config("attention=windowed")
    assert RunConfig.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    assert fingerprint(run) == identity_of(run.to_dict())
    wider = run.with_values({"attention.window": 5})
    assert (wider.options["attention"]["window"], fingerprint(wider) != fingerprint(run)) == (5, True)
    assert run == tiny_config("attention=windowed")


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("max_steps", 1.5, "trainer.max_steps=1.5: must be a whole number"),
        ("val_check_interval", 0, "trainer.val_check_interval=0: must be at least 1"),
        ("gradient_clip_val", "much", "trainer.gradient_clip_val='much': must be a number or null"),
        ("compile", "fast", "trainer.compile='fast': must be true or false or one of max-autotune-no-cudagraphs, "),
        ("compile", None, "trainer.compile=null: must be true or false or one of "),
        ("compile", 1, "trainer.compile=1: must be true or false or one of "),
        ("gradient_clip_val", ..., "trainer.gradient_clip_val must be given: add trainer.gradient_clip_val=... "),
    ],
)
def test_what_the_harness_reads_of_the_trainer(config: Frozen, key: str, value: Any, line: str) -> None:
    config["trainer"][key] = value
    if value is ...:
        del config["trainer"][key]
    with pytest.raises(UserError) as caught:
        RunConfig.from_dict(config).trainer  # noqa: B018
    assert str(caught.value).startswith(line)


def test_it_is_the_same_in_every_process(config: Frozen) -> None:
    code = "import json, sys; from ablab.config.identity import identity_of as i; print(i(json.load(sys.stdin)))"
    for hash_seed in ("0", "12345"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(config),
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == identity_of(config)


def resolved(choices: dict[str, str | None] | None = None, asked: list[str] | None = None, **keys: Any) -> RunConfig:
    return resolve(OmegaConf.create(keys), choices or {}, asked or [])


def test_interpolations_are_resolved_and_choices_kept() -> None:
    config = resolved(
        {"attention": "lsh", "recipe": None, "hydra/launcher": "ablab"},
        ["attention=lsh"],
        trainer={"max_steps": 7},
        schedule={"total_steps": "${trainer.max_steps}"},
    )
    assert config.options["schedule"] == {"total_steps": 7}
    assert config.axes == {"attention": "lsh"}
    assert config.overrides == ["attention=lsh"]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"sed": 1}, "sed: no such setting; did you mean 'seed'?"),
        ({"task": {"path": "???"}}, "task.path must be given: add task.path=... to the command"),
        ({"schedule": {"total_steps": "${nowhere.at_all}"}}, "schedule.total_steps: "),
        ({"name": ""}, "name: must not be empty"),
    ],
)
def test_what_cannot_be_resolved_is_said_in_one_line(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        resolved(**keys)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "plainly"),
    [
        *(({"trainer": {"precision": precision}}, {"trainer": {"precision": "32-true"}}) for precision in (32, "32")),
        ({"trainer": {"precision": "bf16"}}, {"trainer": {"precision": "bf16-mixed"}}),
        ({"continue_from": "./outputs/x/"}, {"continue_from": "outputs/x"}),
    ],
)
def test_two_spellings_are_one_run(keys: dict[str, Any], plainly: dict[str, Any]) -> None:
    assert resolved(**keys) == resolved(**plainly)
    assert resolved(continue_from="a/../b").continue_from == "a/../b"  # a may be a link
    assert resolved(trainer={"precision": None}).options["trainer"] == {"precision": None}


def test_what_differs_is_what_makes_another_run(config: Frozen) -> None:
    """Of every key, each with another value; and an option is named by its axis, without its settings."""
    for path in leaves(config):
        twin = changed(config, path)
        found = [key for key, *_ in differences(twin, config)]
        assert bool(found) == (identity_of(twin) != identity_of(config)), path
        if found:
            assert found == [path[1] if path[0] == "axes" else ".".join(path)]
            assert what_differs(twin, config).startswith(f"{found[0]}=something else, not ")
    other = copy.deepcopy(config)
    other["axes"]["attention"], other["attention"] = "lsh", {"_target_": "another", "bucket_size": 8}
    other["trainer"]["max_steps"], other["schedule"]["total_steps"], other["seed"] = 9, 9, 7
    assert what_differs(other, config) == "attention=lsh, not windowed; seed=7, not 0; trainer.max_steps=9, not 4"
    other["model"]["dropout"] = "x" * 100
    assert what_differs(other, config).endswith(f"model.dropout={'x' * 60}..., not 0.0; seed=7, not 0 and 1 more")
    assert what_differs(config, config) == "another version of ablab"


def test_keys_of_two_types_have_an_order(config: Frozen) -> None:
    """Those of a plan, which are texts, have the same."""
    tables: list[Any] = [{10: 1, 2: 3, "a": {3: 1, "b": 2}}, {"a": {"b": 2, 3: 1}, 2: 3, 10: 1}]
    found = [identity_of({**config, "attention": {"table": table}}) for table in tables]
    assert found[0] == found[1] == identity_of({**config, "attention": {"table": json.loads(json.dumps(tables[0]))}})
    assert identity_of({**config, "attention": {"table": {**tables[0], "a": 1}}}) != found[0]
    assert what_differs({"x": {1: 2, "a": 3}}, {"x": {1: 2, "a": 4}}) == "x.a=3, not 4"


def test_identities_of_finished_runs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they were: users' runs and kept results would be trained again."""
    monkeypatch.setattr(ablab.config.identity, "__version__", "0.2.0")
    windowed = {"_target_": "a.B", "window": 8, "table": {1: 2, 3: 4}}
    task = {"path": "data/a.txt", "token": "hf_ErFmYpQzkd0LxWb8"}
    trainer = {"precision": "bf16-mixed", "compile": False}
    secrets = {"logger": {"mine": {"token": "correct-horse"}}, "callbacks": {"mine": {"password": "a b"}}}
    assert identity_of({"attention": windowed, "axes": {"attention": "windowed"}, "seed": 0}) == "3e44300c976f2741"
    logger = {"wandb": {"api_key": "x"}}
    whole = {"task": task, "logger": logger, "trainer": trainer, "seed": 3, "continue_from": "outputs/trunk"}
    assert identity_of(whole) == "d1e3a489f5538860"
    assert identity_of({**secrets, "attention": {"key": 64}}) == "894b3151553eaad2"
