"""Every task of the menu: what it serves is what it says it serves, whoever loads it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from ablab.config import RunConfig, conf_folder
from ablab.tasks.base import IGNORED, Task
from ablab.training.build import build_task
from ablab.training.build_model import build_model

OPTIONS = sorted(path.stem for path in (conf_folder() / "task").glob("*.yaml"))
TinyConfig = Callable[..., RunConfig]


@cache
def make(option: str, tiny_config: TinyConfig, *settings: str) -> Task:
    """The task with its data, of all tests, which only look at it."""
    return build_task(tiny_config(f"task={option}", *settings))


def flat(batch: Any) -> list[Tensor]:
    """The tensors of a batch, in order."""
    inputs, targets, *subset = batch
    tensors = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    return [*tensors, targets, *(torch.tensor(each) for each in subset)]


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


@pytest.mark.parametrize("option", OPTIONS)
def test_batches_are_as_the_example(option: str, tiny_config: TinyConfig) -> None:
    task = make(option, tiny_config)
    batch = next(iter(task.train_dataloader()))
    for served, shown in zip(flat(batch), flat(task.example()), strict=True):
        assert served.shape == (task.batch_size, *shown.shape[1:])
        assert served.dtype == shown.dtype
    inputs, targets = batch
    answers = targets[targets != IGNORED]
    assert len(answers)
    assert answers.min() >= 0
    assert answers.max() < (task.n_outputs or task.vocab_size)
    if isinstance(inputs, Tensor):
        assert inputs.min() >= 0
        assert inputs.max() < task.vocab_size
        assert task.padding is None or not (inputs == task.padding).all(1).any()


@pytest.mark.parametrize("option", OPTIONS)
def test_subsets_are_the_loaders(option: str, tiny_config: TinyConfig) -> None:
    task = make(option, tiny_config)
    for split, loader in {"val": task.val_dataloader(), "test": task.test_dataloader()}.items():
        if loader:
            batches: Any = loader
            served = {batch[2] if len(batch) > 2 else 0 for batch in batches}
            assert served == set(range(len(task.subsets(split))))


@pytest.mark.parametrize("option", OPTIONS)
def test_known_values_are_in_order(option: str, tiny_config: TinyConfig) -> None:
    task = make(option, tiny_config)
    known = task.oracle
    if task.primary.direction == "max":
        assert 0 < known["chance"] <= known["ceiling"] <= 1
        assert all(0 <= value <= known["ceiling"] for value in known.values())
    elif known:
        assert min(known.values()) > 0


@pytest.mark.parametrize("option", OPTIONS)
def test_loader_workers_serve_the_same(option: str, tiny_config: TinyConfig) -> None:
    alone, helped = make(option, tiny_config), make(option, tiny_config, "task.workers=2")
    assert alone.workers == 0
    for loaders in (
        [each.train_dataloader() for each in (alone, helped)],
        [e.val_dataloader() for e in (alone, helped)],
    ):
        batches = [list(islice(loader, 4)) for loader in loaders]
        assert all(same(*pair) for pair in zip(*batches, strict=True))


@pytest.mark.parametrize("option", OPTIONS)
def test_data_sets_can_be_sent_to_a_process(option: str, tiny_config: TinyConfig) -> None:
    task = copy.copy(make(option, tiny_config))
    loaders = task.train_dataloader(), task.val_dataloader()
    task.trainer = lambda: "what cannot be sent"  # type: ignore[assignment]
    for loader in loaders:
        assert not isinstance(loader, list)
        sent = pickle.loads(pickle.dumps(loader.dataset))
        assert same(sent[0], loader.dataset[0])


@pytest.mark.parametrize("option", OPTIONS)
def test_every_attention_learns_it(option: str, tiny_config: TinyConfig) -> None:
    config, task = tiny_config(f"task={option}", "model.n_layers=2"), make(option, tiny_config)
    inputs, targets = next(iter(task.train_dataloader()))
    for name, attention in attentions().items():
        model = build_model(config.with_values({"attention": attention, "axes": {"attention": name}}), task)
        loss = task.loss(model(inputs), targets)
        (loss + model.penalty()).backward()
        assert loss.isfinite(), name
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()), name


@cache
def attentions() -> dict[str, dict[str, Any]]:
    """What the file of each says, with what a query chooses in the shortest sequences: they have no more."""
    small = {"keys": 4, "block": 4}
    files = sorted((conf_folder() / "attention").glob("*.yaml"))
    nodes: dict[str, Any] = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in files}
    return {name: {**node, **{key: small[key] for key in small if key in node}} for name, node in nodes.items()}
