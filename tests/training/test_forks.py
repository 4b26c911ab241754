"""Runs that go on from a trunk with other components: what is taken over, what is refused, and what comes out."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import CHECKPOINT_FOLDER
from ablab.training.build import BuiltRun, build_strategy
from ablab.training.checkpoint_folders import read_checkpoint
from ablab.training.checkpoint_list import listed
from ablab.training.fork import Fork
from ablab.training.optimizers.groups import build_optimizer
from ablab.training.run import _insert
from ablab.training.strategies.base import parallel

COURSE = ("schedule.total_steps=8", "trainer.val_check_interval=2", "optimizer.lr=0.01", "model.n_layers=2")
Run = Callable[[RunConfig, Path], Record]
Compose = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def trunk(tiny_config: Compose, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trunk")
    assert run(tiny_config(*COURSE, "trainer.max_steps=4"), folder).status == "ok"
    return folder


@pytest.fixture
def fork(tiny_config: Compose, run: Run, trunk: Path, tmp_path: Path) -> Callable[..., Record]:
    def make(*overrides: str, steps: int = 8, name: str = "fork") -> Record:
        config = tiny_config(*COURSE, *overrides, f"trainer.max_steps={steps}")
        return run(replace(config, continue_from=str(trunk)), tmp_path / name)

    return make


@pytest.fixture(scope="module")
def base(tiny_config: Compose, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The baseline from its start to its end."""
    return run(tiny_config(*COURSE, "trainer.max_steps=8"), tmp_path_factory.mktemp("base"))


def test_the_baseline_goes_on_as_if_it_had_never_stopped(
    fork: Callable[..., Record], base: Record, trunk: Path
) -> None:
    record = fork()
    assert record.metrics == base.metrics
    assert record.origin in {entry.sha256 for entry in listed(trunk / CHECKPOINT_FOLDER)}


@pytest.mark.parametrize(
    "component",
    [
        "activation=gelu",  # no weights of its own
        "activation=dynamic_sparse",  # with a state
        "layer_fusion=adaptive",  # with weights that the trunk has not
        "norm=rms",  # without weights that the trunk has
        "attention=windowed attention.window=8",
        "residual=hyper",
    ],
)
def test_a_component_is_inserted(fork: Callable[..., Record], base: Record, component: str) -> None:
    own = fork(*component.split())
    assert own.status == "ok", own.reason
    assert own.cost.steps == 8
    [note] = [note for note in own.notes if "inserted" in note]
    assert own.metrics != base.metrics
    assert "loss of a batch moved by" in note


def test_weights_and_moments_are_the_trunks_by_name(fork: Callable[..., Record], trunk: Path, tmp_path: Path) -> None:
    """One step at a rate of almost 0 leaves them as they were taken over."""
    fork("layer_fusion=static", steps=5)
    before, after = (read_checkpoint(place / "checkpoints" / "last.ckpt") for place in (trunk, tmp_path / "fork"))
    shared = before["state_dict"].keys() & after["state_dict"].keys()
    assert shared == before["state_dict"].keys() < after["state_dict"].keys()
    for name in shared:
        assert torch.allclose(before["state_dict"][name], after["state_dict"][name], atol=0.05), name
    steps = {int(state["step"]) for state in after["optimizer_states"][0]["state"].values()}
    assert steps == {1, 5}  # of what is new, and of what was taken over


@pytest.mark.parametrize("optimizer", ["muon", "soap"])
def test_what_two_rules_and_a_schedule_remember_is_the_trunks_by_name(
    optimizer: str, tiny_config: Compose, run: Run, tmp_path: Path
) -> None:
    """New parameters stand between those of the trunk."""
    words = (*COURSE, f"optimizer={optimizer}", "optimizer.lr=0.01", "schedule=gradient_variance")
    trunk = tiny_config(*words, "trainer.max_steps=3")
    forked = tiny_config(*words, "residual=hyper", "trainer.max_steps=4", f"continue_from={tmp_path / 'trunk'}")
    assert run(trunk, tmp_path / "trunk").status == "ok"
    checkpoint = read_checkpoint(tmp_path / "trunk" / "checkpoints" / "last.ckpt")
    before = remembered(checkpoint, BuiltRun.of(trunk))
    built = BuiltRun.of(forked)
    Fork(trunk, built).insert(checkpoint, built.build_model())
    after = remembered(checkpoint, built)
    assert before.keys() < after.keys()
    for name, found in after.items():
        known = before.get(name, [torch.zeros(())] * 2)  # of what is new the averages alone, of nothing
        assert len(found) == len(known), name
        assert all(torch.equal(one, other.expand_as(one)) for one, other in zip(found, known, strict=True)), name
    assert run(forked, tmp_path / "fork").status == "ok"


def remembered(checkpoint: dict[str, Any], built: BuiltRun) -> dict[str, list[Tensor]]:
    """What is remembered of each parameter: by the schedule, and by the optimizer."""
    model = built.build_model()
    optimizer = build_optimizer(built.optimizer, model)
    schedule: Any = built.schedule(optimizer)
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    schedule.load_state_dict(checkpoint["lr_schedulers"][0])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        names[id(each)]: [mean, square, *(x for x in optimizer.state.get(each, {}).values() if isinstance(x, Tensor))]
        for each, mean, square in zip(parameters, schedule.mean, schedule.square, strict=True)
    }


@pytest.mark.parametrize(
    ("option", "taken"),
    [
        *(("single", True), ("ddp", True), ("ddp_fp16", True)),
        *(("ddp_topk", False), ("ddp_powersgd", False), ("local_sgd", False), ("diloco", False)),
        *(("async_ddp", False), ("fsdp", False), ("pipeline", False)),
    ],
)
def test_a_strategy_that_holds_shards_or_remembers_parameters_is_refused(
    option: str, taken: bool, tiny_config: Compose
) -> None:
    class Inserts:
        def insert(self, *_: Any) -> str:
            return "inserted"

    strategy, record = parallel(build_strategy(tiny_config(f"strategy={option}"))), SimpleNamespace(notes=[])
    with contextlib.nullcontext() if taken else pytest.raises(UserError, match=r"use strategy=single or strategy=ddp"):
        _insert(Inserts(), strategy, record, {}, None)  # type: ignore[arg-type]
    assert record.notes == (["inserted"] if taken else [])


def test_an_arm_that_is_off_by_rounding_is_off_from_the_fork_on(fork: Callable[..., Record], base: Record) -> None:
    nudged = fork("++model.placebo=nudge")
    assert nudged.metrics["val_loss"] == pytest.approx(base.metrics["val_loss"], abs=1e-4)
    assert nudged.responses != base.responses


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["feed_forward=moe"], "cannot be inserted|other groups of parameters"),
        (["activation=swiglu"], "has the shape .* train this variant from the start"),
        (["model.d_model=32"], r"that run has another model.d_model; only components, strategy"),
        (["optimizer=sgd"], "that run has another optimizer"),
        (["schedule.total_steps=9"], r"give a trunk the steps of the whole course: schedule.total_steps=\.\.\."),
    ],
)
def test_what_cannot_be_inserted_is_refused_in_one_line(
    fork: Callable[..., Record], overrides: list[str], reason: str
) -> None:
    record = fork(*overrides)
    assert record.status == "failed"
    assert record.reason is not None
    assert "\n" not in record.reason
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(record.reason)


def test_a_trunk_that_names_what_is_not_ablabs_is_refused(
    trunk: Path, tiny_config: Compose, run: Run, tmp_path: Path
) -> None:
    shutil.copytree(trunk, tmp_path / "other")
    path = tmp_path / "other" / "config.yaml"
    text = path.read_text(encoding="utf-8")
    named = "ablab.model.activation.stateless.ReLU"
    assert named in text
    path.write_text(text.replace(named, "os.system"), encoding="utf-8")
    config = tiny_config(*COURSE, "activation=gelu", "trainer.max_steps=8")
    record = run(replace(config, continue_from=str(path.parent)), tmp_path / "fork")
    assert record.status == "failed"
    assert "asks for activation._target_=os.system, which is not ablab's own" in str(record.reason)
