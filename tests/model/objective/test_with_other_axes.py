"""Modules that look ahead are blocks of any kind: every option of the other axes works in them, and causally so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.objective.multi_token import MultiToken
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
CLASHES = {("residual", "value")}


@pytest.mark.parametrize(
    "axis", ["norm", "attention", "feed_forward", "activation", "residual", "position", "layer_fusion"]
)
def test_every_option_works_ahead(
    axis: str, build: Build, load_option: Callable[..., Any], menu: dict[str, list[str]], tokens: Callable[..., Tensor]
) -> None:
    ids = tokens(2, 18)
    for option in menu[axis]:
        made: dict[str, Any] = {axis: option, "objective": load_option("objective", "multi_token", depth=2)}
        if (axis, option) in CLASHES:
            with pytest.raises(ClashError):
                build(**made)
            continue
        model = build(**made)
        model.resample(0)
        model(ids, targets=ids)
        model.penalty().backward()
        model.after_step()
        for name, parameter in model.objective.named_parameters():
            assert parameter.grad is not None, (option, name)
            assert parameter.grad.isfinite().all(), (option, name)
        model.eval()
        before, place = told(model, ids), 12
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 1) % 11
        for k, (one, other) in enumerate(zip(before, told(model, changed), strict=True), 1):
            early = slice(0, place - k)
            torch.testing.assert_close(other[:, early], one[:, early], rtol=0, atol=2e-6, msg=f"{option}, depth {k}")
            assert not torch.equal(other[:, place - k], one[:, place - k]), (option, k)


def told(model: Transformer, ids: Tensor) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        assert isinstance(module, MultiToken)
        found.extend(logits for logits, _ in module.ahead(args[0]))

    handle = model.objective.register_forward_hook(keep)
    with torch.no_grad():
        model(ids, targets=ids)
    handle.remove()
    return found
