"""What all tests share: one thread, Hydra's globals cleared, and a small run to order. `conftest.py` brings it."""

from __future__ import annotations

import contextlib
import copy
import csv
import functools
import logging
import os
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import hypothesis
import known_costs
import pytest
import torch
from commands import forking_runs
from composed_once import composed_once
from composing import composed
from drawn import plain_figures
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities import registry
from omegaconf import DictConfig, OmegaConf, open_dict

from ablab.config import RunConfig, conf_folder, resolve, targets
from ablab.results.record import Cost, Record
from ablab.results.run_context import RunContext
from ablab.study.planning import rungs
from ablab.study.planning.recombine import Recombiner
from ablab.study.supervision import attempt, code
from ablab.tasks.base import Task
from ablab.training import build
from ablab.training.begin import prepare_folder
from ablab.training.build import BuiltRun, made_of
from ablab.training.run import execute

torch.set_num_threads(1)
hypothesis.settings.register_profile("suite", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("suite")

# PyTorch's compiler writes down all that it does where somebody listens, and pytest listens to loggers that keep their
# records to themselves.
_TRACE = logging.getLogger("torch.__trace")
_TRACE.handlers.clear()
_TRACE.propagate = True

# Modules of tests that options name. The process that runs are forked from is replaced by another, which takes seconds,
# when it meets one that it does not know.
code._known.update({"faulty", "faulty_ranks"})

TinyConfig = Callable[..., RunConfig]

_TINY = (
    "name=tests",
    "task=text",
    "task.seq_len=32",
    "task.batch_size=4",
    "task.eval_tokens=256",
    "task.eval_samples=8",
    "trainer.accelerator=cpu",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "logger=csv",
)
_TINY_MODEL = ("model.d_model=16", "model.n_heads=2", "model.n_layers=1")


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Nobody cuts the power here, and a disk that others write to takes a tenth of a second for each record."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _installed_once() -> Iterator[None]:
    """Each of Lightning's trainers reads what is installed, for callbacks of other packages; so does a wrong target."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", functools.cache(metadata.entry_points))
        patch.setattr(targets, "packages_distributions", functools.cache(metadata.packages_distributions))
        yield


@pytest.fixture(scope="session", autouse=True)
def _policy_hashed_once() -> Iterator[None]:
    """Hydra hashes what it forbids to be made before it makes anything, which is each component of each model."""
    with pytest.MonkeyPatch.context() as patch:
        with contextlib.suppress(ImportError):  # before Hydra 1.3.8
            from hydra._internal import target_policy
            from hydra._internal.instantiate import _instantiate2

            validated = functools.cache(target_policy._validated_target_policy)
            for module in (target_policy, _instantiate2):
                patch.setattr(module, "_validated_target_policy", validated)
        yield


@pytest.fixture(scope="session", autouse=True)
def _composed_once() -> Iterator[None]:
    with composed_once():
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_imports_for_seconds() -> Iterator[None]:
    with forking_runs():
        yield


@pytest.fixture
def _plain_figures() -> Iterator[None]:
    """For tests that look at something else of a report: figures take most of its time."""
    with plain_figures():
        yield


@pytest.fixture(autouse=True)
def _clear_hydra() -> Iterator[None]:
    """Hydra keeps what was composed last in singletons."""
    yield
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of English of a sort, 20 kB, in which no window is like another."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("".join(f"{n} squared is {n * n}, cubed {n**3}.\n" for n in range(600)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def task_paths(corpus: Path) -> dict[str, Path]:
    """What tasks that read data of a kind of their own can be given as task.path, by option; the others get text."""
    lines = corpus.read_text(encoding="utf-8").splitlines()
    documents, table = corpus.parent / "documents", corpus.parent / "table.csv"
    documents.mkdir()
    for split, part in {"train": lines[60:], "validation": lines[:60]}.items():
        (documents / f"{split}.txt").write_text("\n".join(part), encoding="utf-8")
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = ((line, "even" if number % 2 == 0 else "odd") for number, line in enumerate(lines))
        csv.writer(file).writerows([("text", "label"), *rows])
    return {"hf_text": documents, "classification": table}


@pytest.fixture(scope="session")
def tiny_config(corpus: Path, task_paths: dict[str, Path]) -> TinyConfig:
    """tiny_config("attention=lsh", "seed=3"): the config of a run of a second, by overrides.

    Of two overrides of one key the later one counts. An override `model=...` brings that model in its full size, and a
    task that must be given a path gets one.
    """

    def make(*overrides: str) -> RunConfig:
        chosen = dict(o.split("=", 1) for o in _TINY)
        named = next((o.removeprefix("task=") for o in overrides if o.startswith("task=")), chosen["task"])
        task = _task(named)
        settings = [key for key in chosen if key.startswith("task.") and key.removeprefix("task.") not in task]
        chosen = {key: value for key, value in chosen.items() if key not in settings}  # of other tasks
        if not any(o.startswith("model=") for o in overrides):
            chosen |= dict(o.split("=", 1) for o in _TINY_MODEL)
        chosen |= dict(o.split("=", 1) for o in overrides)
        if OmegaConf.is_missing(task, "path"):
            chosen.setdefault("task.path", str(task_paths.get(named, corpus)))
        return copy.deepcopy(_compose(tuple(f"{key}={value}" for key, value in chosen.items()), overrides))

    return make


@pytest.fixture
def _costs_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at something else of runs in processes of their own: each counts what its model costs."""

    def remember(config: RunConfig, record: Record) -> None:
        if record.cost.parameters is not None:
            known_costs.KNOWN[known_costs.key_of(config)] = record.cost.counted()

    monkeypatch.setattr(attempt, "known_cost", lambda config, context: known_costs.counted(config))
    monkeypatch.setattr(attempt, "remember_cost", remember)


@pytest.fixture
def _sizes_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of ladders: they have the same few models at the same few sizes, and counting is most of their time."""

    def counted(config: RunConfig, task: Task) -> tuple[int, float | None]:
        key = made_of(config)
        _SIZES[key] = _SIZES.get(key) or _count(config, task)
        return _SIZES[key]

    monkeypatch.setattr(rungs, "_counted", counted)


_SIZES: dict[str, tuple[int, float | None]] = {}
_count = rungs._counted


@pytest.fixture(scope="session")
def run() -> Callable[..., Record]:
    """run(config, folder, variant=..., index=...): the record of a run in this process.

    Models and tasks that many runs have are counted once, and not for sequences that no run has: that is a quarter of a
    small run.
    """
    count: Callable[[BuiltRun], Cost] = BuiltRun.cost.func  # type: ignore[attr-defined]

    def cost(built: BuiltRun) -> Cost:
        key = known_costs.key_of(built.config)
        known_costs.KNOWN[key] = known_costs.counted(built.config) or count(built)
        return known_costs.KNOWN[key]  # of which a run makes a copy

    def make(config: RunConfig, folder: Path, **context: Any) -> Record:
        prepare_folder(config, folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BuiltRun, "cost", property(cost))
            patch.setattr(build, "inference_costs", lambda *_: {})
            return execute(config, folder, RunContext(**context))

    return make


@functools.cache
def _task(named: str) -> DictConfig:
    task = OmegaConf.load(conf_folder() / "task" / f"{named}.yaml")
    assert isinstance(task, DictConfig)
    return task


@functools.cache
def _compose(overrides: tuple[str, ...], asked: tuple[str, ...]) -> RunConfig:
    config = _recombiner()(overrides)
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return resolve(config, choices, list(asked))


@functools.cache  # hundreds of tests ask for configs that differ in a node or two
def _recombiner() -> Recombiner:
    return Recombiner(composed)
