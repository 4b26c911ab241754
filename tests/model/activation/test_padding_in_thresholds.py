"""How far a batch is padded moves no threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.activation.dynamic_sparse import DynamicSparse


def states(model: nn.Module) -> dict[str, Tensor]:
    return {name: each for name, each in model.named_buffers() if name.endswith((".average", ".scale"))}


@pytest.mark.parametrize("settings", [{}, {"per_channel": True}, {"target_sparsity": 0.9}])
@pytest.mark.parametrize("feed_forward", ["dense", "moe", "hash_moe"])
def test_what_follows_the_inputs_follows_tokens_alone(
    feed_forward: str, settings: dict[str, Any], build: Callable[..., Any], load_option: Any, tokens: Any
) -> None:
    """The same sequences, of 7, 4 and 2 tokens, with little padding and with much."""
    sparse = load_option("activation", "dynamic_sparse", alpha=0.5, initial=0.01, **settings)
    models = [build(activation=sparse, feed_forward=feed_forward).double().train() for _ in range(2)]
    for seed in range(2):
        ids = tokens(3, 20, seed=seed)
        missing = torch.arange(20) >= torch.tensor([[7], [4], [2]])
        for model, length in zip(models, (7, 20), strict=True):
            model(ids[:, :length], missing[:, :length])
    few, many = map(states, models)
    assert len(few) >= 4
    for name, value in few.items():
        torch.testing.assert_close(many[name], value, rtol=1e-9, atol=0)
        assert not name.endswith("average") or (value != 0.01).all()


def test_a_batch_of_padding_alone_is_none(make_spec: Callable[..., Any]) -> None:
    core = DynamicSparse(make_spec(), alpha=0.5, initial=1.0, scale=1.0, target_sparsity=0.5)
    before = core.mechanism()
    core(torch.randn(2, 3, 32), torch.ones(2, 3, dtype=torch.bool))
    assert core.mechanism() == before
