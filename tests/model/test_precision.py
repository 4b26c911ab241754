"""Every option in bfloat16. What attentions do by themselves is in `attention/contract/`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ablab.config import conf_folder
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
AXES = ("norm", "attention", "feed_forward", "activation", "residual", "position", "layer_fusion", "objective")
MENU = {axis: sorted(path.stem for path in (conf_folder() / axis).glob("*.yaml")) for axis in AXES}


def step(model: Transformer, ids: Tensor) -> list[Tensor]:
    """Logits, what is added to the loss, and the gradients of both."""
    logits = model(ids, targets=ids)
    added = model.penalty()
    total = logits.float().square().mean() + added
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    return [logits, added, *gradients]


@pytest.mark.parametrize("axis", AXES)
def test_half_precision_is_near_single(axis: str, build: Build, tokens: Tokens) -> None:
    ids = tokens(2, 40)
    for option in MENU[axis]:
        model = build(**{axis: option})
        model.resample(0)
        exact = step(model, ids)
        with torch.autocast("cpu", torch.bfloat16):
            half = step(model, ids)
        assert all(each.isfinite().all() for each in half), option
        assert (half[0].float() - exact[0]).norm() < 0.05 * exact[0].norm(), option
        torch.testing.assert_close(half[1], exact[1], rtol=0.05, atol=1e-3)
