"""What moves by small steps goes on moving in a model of 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ablab.model.activation.dynamic_sparse import DynamicSparse
from ablab.model.feed_forward.routing import Router

HALVES = [torch.bfloat16, torch.float16]


def router() -> Router:
    made = Router(2, 2, top_k=1, score="sigmoid", renormalise=True, scale=1.0, bias_speed=0.001)
    nn.init.eye_(made.weight)
    return made


@pytest.mark.parametrize("dtype", HALVES)
def test_a_balance_bias_moves_as_far_as_it_is_asked_to(dtype: torch.dtype) -> None:
    routes = router().to(dtype)
    first = torch.zeros(1, 1, 1, dtype=torch.int64)
    for _ in range(600):
        routes(torch.zeros(1, 1, 2, dtype=dtype), None, first)  # whatever the bias
        routes.after_step()
    assert routes.bias.tolist() == pytest.approx([-0.6, 0.6], rel=1e-3)


@pytest.mark.parametrize("dtype", HALVES)
def test_an_average_reaches_what_it_follows(dtype: torch.dtype, make_spec: Callable[..., Any]) -> None:
    core = DynamicSparse(make_spec(), alpha=0.99, initial=0.0, scale=1.0, target_sparsity=0.01).to(dtype)
    for _ in range(1000):
        core(torch.ones(1, 1, 32, dtype=dtype))
    assert core.average.item() == pytest.approx(1 - 0.99**1000, rel=1e-4)


def test_other_moves_are_those_of_any_buffer(make_spec: Callable[..., Any]) -> None:
    sparse = DynamicSparse(make_spec(), alpha=0.9, initial=0.1, scale=1 / 3)
    exact = sparse.scale.item()
    assert sparse.to(torch.bfloat16).scale.item() == exact
    assert sparse.to("meta", torch.float16).scale.dtype == torch.float32
    assert sparse.scale.is_meta
    assert sparse.double().scale.dtype == torch.float64
    kept = {name: each.bfloat16() for name, each in router().state_dict().items()}
    routes = router().bfloat16()
    routes.load_state_dict(kept)  # as checkpoints of before have it
    assert routes.bias.dtype == torch.float32
    assert routes.weight.dtype == torch.bfloat16
