"""Whether order reaches the attention, as the probe tells it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
Watch = Callable[..., dict[str, float]]


@pytest.mark.parametrize("causal", [True, False])
def test_only_with_positions_does_order_matter(
    build: Build, tokens: Tokens, watch: Watch, position_option: str, causal: bool
) -> None:
    model = build(position=position_option, causal=causal).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # so that attention is far from uniform
    moved = watch(model, tokens(2, 12))["position/order_sensitivity"]
    assert (moved < 1e-12) == (position_option == "none")


def test_the_figure_by_hand(build: Build, tokens: Tokens, watch: Watch) -> None:
    model, ids = build(position="learned").double().eval(), tokens(2, 12)
    turned = torch.cat([ids[:1, :-1].flip(1), ids[:1, -1:]], 1)
    seen: list[Tensor] = []
    block: Any = model.blocks[0]
    block.attention.register_forward_hook(lambda module, args, output: seen.append(output[0, -1]))
    with torch.no_grad():
        model(ids[:1])
        model(turned)
    expected = ((seen[0] - seen[1]).norm() / seen[0].norm()).item()
    assert watch(model, ids, tokens(2, 5))["position/order_sensitivity"] == pytest.approx(expected)
