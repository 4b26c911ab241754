"""Which parameters decay, and what each rule makes of a gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import schedulefree
import torch
from hydra.utils import instantiate

from ablab.config import RunConfig, conf_folder
from ablab.model.transformer import Transformer
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.generation import load_run
from ablab.training.optimizers.groups import build_optimizer, describe_groups
from ablab.training.optimizers.muon import MuonWithAdamW


def decays(model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The weight decay of each parameter, by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(p)], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]]
    assert len(found) == len(dict(found)) == len(names)  # each parameter once
    return dict(found)


@pytest.mark.parametrize("tied", ["true", "false"])
def test_only_matrices_decay(tied: str, tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config(f"model.tie_embeddings={tied}")
    model = build_model(config, build_task(config))
    found = decays(model, build_optimizer(partial(torch.optim.AdamW, weight_decay=0.3), model))
    layer = "blocks.0."
    matrices = {f"{layer}attention.{name}.weight" for name in ("query", "key", "value", "output")}
    matrices |= {f"{layer}feed_forward.{name}.weight" for name in ("up", "down")}
    if tied == "false":
        matrices.add("head.weight")  # a matrix of its own; tied, it is the embedding
    assert {name for name, decay in found.items() if decay} == matrices
    assert {found[name] for name in matrices} == {0.3}


def test_a_step_without_gradients_shrinks_matrices_alone(tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config()
    model = build_model(config, build_task(config))
    optimizer = build_optimizer(partial(torch.optim.SGD, lr=0.5, weight_decay=0.2), model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, decay in decays(model, optimizer).items():
        torch.testing.assert_close(model.get_parameter(name).detach(), before[name] * (1 - 0.5 * decay))


def test_what_is_frozen_is_left_out(tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config()
    model = build_model(config, build_task(config))
    model.blocks.requires_grad_(False)
    optimizer = build_optimizer(partial(torch.optim.SGD, lr=0.1), model)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
    assert found == {"embedding.weight", "position.weight", "norm.weight", "norm.bias"}


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_the_rate_of_a_group_is_the_one_that_its_schedule_has_factors_of(
    schedule: str, tiny_config: Callable[..., RunConfig]
) -> None:
    """Of one cycle PyTorch keeps what it starts with where other schedules keep that."""
    config = tiny_config(f"schedule={schedule}")
    model = build_model(config, build_task(config))
    optimizer = build_optimizer(partial(torch.optim.AdamW, lr=0.002), model)
    instantiate(config.options["schedule"], _convert_="all")(optimizer)
    assert {group["lr"] for group in describe_groups(optimizer)} == {0.002}


OPTIONS = sorted(path.stem for path in (conf_folder() / "optimizer").glob("*.yaml"))


def make(option: str, tiny_config: Callable[..., RunConfig], **changes: Any) -> tuple[Transformer, Any]:
    config = tiny_config(f"optimizer={option}", *(f"optimizer.{key}={value}" for key, value in changes.items()))
    model = build_model(config, build_task(config))
    return model, build_optimizer(instantiate(config.options["optimizer"], _convert_="all"), model)


def mode(optimizer: Any, name: str) -> None:
    getattr(optimizer, name, lambda: None)()


def take_steps(model: Transformer, optimizer: Any, seeds: range) -> None:
    mode(optimizer, "train")
    for seed in seeds:
        for index, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(1000 * seed + index)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    mode(optimizer, "eval")


def values(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_goes_on_from_its_state(option: str, tiny_config: Callable[..., RunConfig]) -> None:
    whole, of_whole = make(option, tiny_config)
    start = values(whole)
    take_steps(whole, of_whole, range(3))
    middle, saved = values(whole), copy.deepcopy(of_whole.state_dict())
    take_steps(whole, of_whole, range(3, 6))
    assert all(not torch.equal(start[name], value) for name, value in values(whole).items())

    resumed, of_resumed = make(option, tiny_config)
    resumed.load_state_dict(middle, strict=False)
    of_resumed.load_state_dict(saved)
    take_steps(resumed, of_resumed, range(3, 6))
    for name, value in values(whole).items():
        torch.testing.assert_close(resumed.get_parameter(name).detach(), value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_decays_matrices_alone(option: str, tiny_config: Callable[..., RunConfig]) -> None:
    model, optimizer = make(option, tiny_config, weight_decay=0.1)
    before = values(model)
    mode(optimizer, "train")
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    mode(optimizer, "eval")
    moved = {name for name, value in values(model).items() if not torch.equal(value, before[name])}
    parts = ("query", "key", "value", "output")
    expected = {f"blocks.0.attention.{part}.weight" for part in parts}
    assert moved == expected | {f"blocks.0.feed_forward.{part}.weight" for part in ("up", "down")}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_schedule_reaches_every_group(option: str, tiny_config: Callable[..., RunConfig]) -> None:
    """Also after a resume, which makes the groups anew."""
    model, optimizer = make(option, tiny_config)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = values(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    take_steps(model, optimizer, range(2))
    assert all(torch.equal(value, before[name]) for name, value in values(model).items())


def test_muon_takes_the_blocks_matrices_and_no_others(tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config("model.tie_embeddings=false")
    model = build_model(config, build_task(config))
    groups = describe_groups(build_optimizer(MuonWithAdamW, model))
    assert [(group["name"], group["optimizer"], group["weight_decay"]) for group in groups] == [
        ("matrices", "Muon", 0.1),
        ("head", "AdamW", 0.1),
        ("not_decayed", "AdamW", 0.0),
    ]
    assert [group["tensors"] for group in groups][:2] == [6, 1]
    assert sum(group["parameters"] for group in groups) == sum(p.numel() for p in model.parameters())


def test_muon_moves_a_matrix_by_its_orthogonalised_gradient() -> None:
    """Newton and Schulz bring singular values near 1; the update has AdamW's size, 0.2 sqrt(larger side)."""
    gradient = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    matrix = torch.nn.Parameter(torch.zeros(24, 16))
    optimizer = MuonWithAdamW([{"params": [matrix], "name": "matrices"}], lr=0.1, weight_decay=0.0)
    matrix.grad = gradient
    optimizer.step()
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    step = -matrix.detach() / (0.1 * 0.2 * 24**0.5)
    values = torch.linalg.svdvals(step)
    assert 0.6 < values.min() <= values.max() < 1.3  # as the published coefficients leave them
    aligned = (u.T @ step @ v.T).diagonal()
    assert (aligned > 0.6).all()


def test_schedule_free_by_its_formula() -> None:
    """Defazio et al. 2024, algorithm 1, with Adam's scaling, a constant rate and no decay: three steps written out."""
    lr, beta, beta2, eps = 0.1, 0.9, 0.99, 1e-8
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = schedulefree.AdamWScheduleFree([p], lr=lr, betas=(beta, beta2), eps=eps, warmup_steps=0)
    z = x = p.detach().clone()
    v = torch.zeros(2, dtype=torch.float64)
    optimizer.train()
    for step in range(1, 4):
        y = (1 - beta) * z + beta * x
        torch.testing.assert_close(p.detach(), y)
        gradient = 2 * y
        p.grad = 2 * p.detach()
        optimizer.step()
        v = beta2 * v + (1 - beta2) * gradient**2
        z = z - lr * gradient / ((v / (1 - beta2**step)).sqrt() + eps)
        x = (1 - 1 / step) * x + z / step
    optimizer.eval()
    torch.testing.assert_close(p.detach(), x)


@pytest.mark.parametrize("option", ["muon", "schedule_free"])
def test_a_run_records_its_groups_and_evaluates_what_it_saves(
    option: str, tiny_config: Callable[..., RunConfig], run: Callable[..., Any], tmp_path: Path
) -> None:
    record = run(tiny_config(f"optimizer={option}", "schedule=constant"), tmp_path)
    assert record.status == "ok"
    assert {group["name"] for group in record.parameter_groups} == {"matrices", "not_decayed"}
    assert sum(group["parameters"] for group in record.parameter_groups) == record.cost.parameters
    assert 0 < record.mechanism["optimizer/update_ratio"] < 1
    model, task = load_run(tmp_path, "last")
    totals: dict[str, float] = {}
    with torch.no_grad():
        for inputs, targets in task.val_dataloader():
            for name, value in task.totals(model(inputs), targets).items():
                totals[name] = totals.get(name, 0.0) + float(value)
    assert task.metrics(totals)["loss"] == pytest.approx(record.metrics["val_loss"], rel=1e-5)
