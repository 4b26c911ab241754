"""Which parameters decay."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from ablab.model.transformer import Transformer
from ablab.training.build import build_model, build_task
from ablab.training.optimizers import build_optimizer


def decays(model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The weight decay of each parameter, by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(p)], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]]
    assert len(found) == len(dict(found)) == len(names)  # each parameter once
    return dict(found)


@pytest.mark.parametrize("tied", ["true", "false"])
def test_only_matrices_decay(tied: str, tiny_config: Callable[..., dict[str, Any]]) -> None:
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


def test_a_step_without_gradients_shrinks_matrices_alone(tiny_config: Callable[..., dict[str, Any]]) -> None:
    config = tiny_config()
    model = build_model(config, build_task(config))
    optimizer = build_optimizer(partial(torch.optim.SGD, lr=0.5, weight_decay=0.2), model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, decay in decays(model, optimizer).items():
        torch.testing.assert_close(model.get_parameter(name).detach(), before[name] * (1 - 0.5 * decay))


def test_what_is_frozen_is_left_out(tiny_config: Callable[..., dict[str, Any]]) -> None:
    config = tiny_config()
    model = build_model(config, build_task(config))
    model.blocks.requires_grad_(False)
    optimizer = build_optimizer(partial(torch.optim.SGD, lr=0.1), model)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
    assert found == {"embedding.weight", "position.weight", "norm.weight", "norm.bias"}
