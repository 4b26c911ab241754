"""Where one block serves several modalities in turn, what it learns beside its weights is of all of them together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.activation.dynamic_sparse import DynamicSparse
from ablab.model.feed_forward.routing import BalanceLoss, Router, Routing
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
Inputs = Callable[..., dict[str, Tensor]]
FUSIONS = [("late", {"weights": "shared"}), ("cross", {}), ("bottleneck", {"weights": "shared"})]


def routed(model: Transformer) -> list[tuple[Router, Routing, Tensor]]:
    """What each call of each router gives from now on, with its mask."""
    found: list[tuple[Router, Routing, Tensor]] = []
    for router in (module for module in model.modules() if isinstance(module, Router)):
        router.register_forward_hook(lambda own, args, out: found.append((own, out, args[1])))
    return found


@pytest.mark.parametrize(("fusion", "settings"), FUSIONS)
def test_even_loads_are_asked_of_the_tokens_of_all_modalities(
    fusion: str, settings: dict[str, Any], build_modal: Build, load_option: Callable[..., Any], modal_inputs: Inputs
) -> None:
    """As of one call on all of them; what a pass has left that nobody asked about is none of the next one's."""
    weights = {"balance_weight": 0.7, "sequence_weight": 0.3}
    experts = load_option("feed_forward", "moe", n_experts=4, top_k=1, **weights)
    option = load_option("modal_fusion", fusion, **settings)
    model = build_modal(option, feed_forward=experts, n_layers=2).train()
    model(modal_inputs(3, seed=1))
    calls = routed(model)
    model(modal_inputs(3))
    expected = torch.zeros(())
    for router in {router for router, _, _ in calls}:
        routings, masks = zip(*((routing, mask) for own, routing, mask in calls if own is router), strict=True)
        loss = BalanceLoss(weight=0.7, sequence_weight=0.3)
        loss(Routing(*(torch.cat(each, 1) for each in zip(*routings, strict=True))), torch.cat(masks, 1))
        expected = expected + loss.penalty()
    assert len(calls) > len({router for router, _, _ in calls})
    penalty = model.penalty()
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    embedding: Any = model.embedding
    encoder: nn.Module
    for name, encoder in embedding.encoders.items():
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters()), name


@pytest.mark.parametrize(("fusion", "settings"), FUSIONS)
def test_a_threshold_moves_once_in_a_pass_by_what_it_saw_of_all_modalities(
    fusion: str, settings: dict[str, Any], build_modal: Build, load_option: Callable[..., Any], modal_inputs: Inputs
) -> None:
    sparse = load_option("activation", "dynamic_sparse", alpha=0.5, initial=0.01)
    model = build_modal(load_option("modal_fusion", fusion, **settings), activation=sparse, n_layers=2).train()
    inputs = modal_inputs(3)
    inputs["padding"] = torch.zeros_like(inputs["padding"])
    calls: list[tuple[DynamicSparse, Tensor, Tensor]] = []
    for module in (module for module in model.modules() if isinstance(module, DynamicSparse)):
        module.register_forward_hook(lambda own, args, out: calls.append((own, args[0], out)))
    model(inputs)
    modules = {own for own, _, _ in calls}
    assert len(calls) > len(modules)
    for module in modules:
        given = torch.cat([x for own, x, _ in calls if own is module], 1)
        passed = torch.cat([out for own, _, out in calls if own is module], 1)
        assert torch.equal(passed, torch.where(given > 0.01, given, 0.0))
        torch.testing.assert_close(module.average, 0.5 * 0.01 + 0.5 * given.abs().mean())
