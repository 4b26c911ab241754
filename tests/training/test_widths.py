"""Learning rates that follow the width: what training moves does not depend on it, for every optimizer of the menu."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from ablab.bench.widths.measure import moves, slope
from ablab.config import RunConfig, conf_folder
from ablab.errors import UserError
from ablab.study.planning.preflight import Preflight
from ablab.tasks.base import Task
from ablab.training.build import BuiltRun, build_task
from ablab.training.build_model import build_model
from ablab.training.optimizers.groups import base_rate, build_optimizer, describe_groups

TinyConfig = Callable[..., RunConfig]
BASE, WIDTHS, STEPS = 16, (32, 64, 128), 4
MUP = ("parametrisation=mup", f"parametrisation.base_width={BASE}", "parametrisation.base_head_size=8")
OPTIMIZERS = sorted(path.stem for path in (conf_folder() / "optimizer").glob("*.yaml"))
LEVEL = 0.2  # of exponents, below which nothing grows; in the standard they are 0.6 and more


@pytest.fixture(scope="module")
def small(tiny_config: TinyConfig) -> Callable[..., RunConfig]:
    """Full rates from the first step on, and gradients as they are: clipping makes less of those of wide models."""
    common = (f"trainer.max_steps={STEPS}", "schedule=constant", "schedule.warmup_share=0")
    return lambda *words: tiny_config(*common, "trainer.gradient_clip_val=null", *words)


@pytest.fixture(scope="module")
def task(small: Callable[..., RunConfig]) -> Task:
    return build_task(small())


def exponents(config: RunConfig, task: Task) -> dict[str, float]:
    each = {width: moves(config.with_values({"model.d_model": width}), task, STEPS) for width in WIDTHS}
    return {part: slope([(width, found[part]) for width, found in each.items()]) for part in each[BASE * 2]}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_training_moves_does_not_grow_with_the_width(
    optimizer: str, small: Callable[..., RunConfig], task: Task
) -> None:
    words = [f"optimizer={optimizer}"]
    ours = exponents(small(*words, *MUP), task)
    logits = ours.pop("logits")  # of which there is a random part at first, and it fades as models get wider
    assert all(abs(each) < LEVEL for each in ours.values()), ours
    assert -3 * LEVEL < logits < LEVEL
    if optimizer in ("adamw", "muon", "sgd"):  # one of each rule
        theirs = exponents(small(*words), task)
        assert max(theirs.values()) > 3 * LEVEL, theirs


def test_rates_and_decays_of_groups_by_hand(small: Callable[..., RunConfig], task: Task) -> None:
    """A matrix of four times the base's fan-in learns at a quarter of the rate, and decays as fast."""
    config = small(*MUP, "model.d_model=64", "optimizer.lr=0.008", "optimizer.weight_decay=0.5")
    optimizer = build_optimizer(BuiltRun(config=config, task=task).optimizer, build_model(config, task))
    rates = {(each["name"], each["lr"], each["weight_decay"]) for each in describe_groups(optimizer)}
    assert rates == {("matrices", 0.002, 2.0), ("not_decayed", 0.008, 0.0)}
    assert base_rate(optimizer.param_groups) == 0.008


def test_at_the_base_width_all_is_the_standard(small: Callable[..., RunConfig], task: Task) -> None:
    """Groups, initial values, and with them steps."""

    def trained(*words: str) -> tuple[list[dict[str, Any]], list[Tensor]]:
        built = BuiltRun(config=small(*words), task=task)
        model = built.build_model()
        optimizer = build_optimizer(built.optimizer, model)
        inputs, targets = next(iter(task.train_dataloader()))
        task.loss(model(inputs), targets).backward()
        optimizer.step()
        return describe_groups(optimizer), list(model.parameters())

    (groups, ours), (theirs, standard) = trained(*MUP), trained()
    assert groups == theirs
    assert all(torch.equal(own, other) for own, other in zip(ours, standard, strict=True))


class Unheard(Optimizer):
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})


class Heard(Unheard):
    width_rule: ClassVar = "gradient"


class Misheard(Unheard):
    width_rule: ClassVar = "elmentwise"


def test_optimizers_without_a_rule_are_refused(small: Callable[..., RunConfig], task: Task) -> None:
    model = build_model(small(*MUP, "model.d_model=64"), task)
    for unknown in (Unheard, Misheard):
        with pytest.raises(UserError, match=f"no rule is known by which the learning rates of {unknown.__name__}"):
            build_optimizer(unknown, model)
        build_optimizer(unknown, build_model(small("model.d_model=64"), task))
    build_optimizer(Heard, model)
    with pytest.raises(UserError, match=r"Adam adds weight decay to gradients .* optimizer.weight_decay=0"):
        build_optimizer(lambda groups: Adam(groups, weight_decay=0.1), model)
    for fine in (Adam, lambda groups: AdamW(groups, weight_decay=0.1)):
        build_optimizer(fine, model)


def test_optimizers_without_a_rule_are_refused_before_anything_runs(small: Callable[..., RunConfig]) -> None:
    wrong = ("optimizer=adam", "optimizer.weight_decay=0.1")
    with pytest.raises(UserError, match=r"Adam adds weight decay to gradients .* optimizer.weight_decay=0"):
        Preflight().check(small(*MUP, *wrong))
    Preflight().check(small(*wrong))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("+parametrisation.base.model.dff=8",), "parametrisation.base.model.dff: no such setting"),
        (("parametrisation.base_head_size=3",), "parametrisation.base_head_size=3 does not divide"),
        (("parametrisation.base_width=0",), "parametrisation.base_width must be at least 1"),
        (("parametrisation.base_head_size=1", "position=rope"), "no model of the base width"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    words: tuple[str, ...], said: str, small: Callable[..., RunConfig], task: Task
) -> None:
    with pytest.raises(UserError) as refused:
        build_model(small(*MUP, "model.d_model=64", *words), task)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_settings_of_the_base_are_the_users(small: Callable[..., RunConfig], task: Task) -> None:
    """A latent that the user makes wider with the model grows; without a word on it it is the same at every width."""
    words = (*MUP, "attention=mla", "model.d_model=64", "attention.kv_rank=32")
    factors = []
    for more in ((), ("+parametrisation.base.attention.kv_rank=8",)):
        model, plain = build_model(small(*words, *more), task), build_model(small(*words[3:]), task)
        own, other = (each.get_parameter("blocks.0.attention.value.weight") for each in (model, plain))
        factors.append((own / other).mean().item())
    assert factors == pytest.approx([1.0, 0.5])


def test_a_run_tells_the_rate_that_was_asked_for(
    tiny_config: TinyConfig, run: Callable[..., Any], tmp_path: Path
) -> None:
    """And beside it those of its groups."""
    config = tiny_config(*MUP, "model.d_model=32", "optimizer=muon", "schedule=constant", "schedule.warmup_share=0")
    record = run(config, tmp_path)
    assert record.status == "ok"
    rate = config.options["optimizer"]["lr"]
    told = {each["lr"] for each in record.parameter_groups}
    assert rate in told
    assert len(told) > 1
    assert record.responses["schedule"][0] == pytest.approx(rate * config.trainer.max_steps)  # their sum
    assert record.mechanism["parametrisation/size"] > 0
