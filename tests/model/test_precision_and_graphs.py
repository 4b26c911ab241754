"""Every option in bfloat16, and traced by `torch.compile`: in one graph, or not for a reason that is known.

What attentions do by themselves is in `attention/test_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
AXES = ("norm", "attention", "feed_forward", "activation", "residual", "position", "layer_fusion", "objective")
# How many tokens an expert got is data, which a graph cannot be cut by where there is a product for each.
BROKEN = {("feed_forward", option) for option in ("moe", "hash_moe", "pattern")}


def step(model: Transformer, ids: Tensor, called: Callable[..., Tensor] | None = None) -> list[Tensor]:
    """Logits, what is added to the loss, and the gradients of both.

    Args:
        called: the model's pass in another form; None: the model.
    """
    logits = (model if called is None else called)(ids, targets=ids)
    added = model.penalty()
    total = logits.float().square().mean() + added
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    return [logits, added, *gradients]


@pytest.mark.parametrize("axis", AXES)
def test_half_precision_is_near_single(
    axis: str, build: Build, menu: dict[str, list[str]], tokens: Callable[..., Tensor]
) -> None:
    ids = tokens(2, 40)
    for option in menu[axis]:
        model = build(**{axis: option})
        model.resample(0)
        exact = step(model, ids)
        with torch.autocast("cpu", torch.bfloat16):
            half = step(model, ids)
        assert all(each.isfinite().all() for each in half), option
        assert (half[0].float() - exact[0]).norm() < 0.05 * exact[0].norm(), option
        torch.testing.assert_close(half[1], exact[1], rtol=0.05, atol=1e-3)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the tracer's own
@pytest.mark.parametrize("axis", [axis for axis in AXES if axis != "attention"])
def test_what_is_compiled_is_the_same(
    axis: str, build: Build, menu: dict[str, list[str]], tokens: Callable[..., Tensor]
) -> None:
    ids = tokens(2, 12)
    for option in menu[axis]:
        model, plain = (build(**{axis: option}) for _ in range(2))  # some change with every pass
        for each in (model, plain):
            each.resample(0)
        expected = step(plain, ids)
        torch.compiler.reset()
        made: Any = torch.compile(model, backend="eager", fullgraph=(axis, option) not in BROKEN)
        found = step(model, ids, made)
        for own, its in zip(found, expected, strict=True):
            torch.testing.assert_close(own, its, rtol=1e-5, atol=1e-6, msg=option)
