"""Attention that chooses, in half precision: near single precision, and what is chosen is chosen in single."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.model.attention import compressed_core, dense, selected_core, selection
from ablab.model.attention.layer import AttentionLayer, attention_layer
from ablab.model.context import unrotated
from ablab.model.initialisation import initialise
from ablab.model.spec import LayerSpec

LENGTH = 70
WARM = {"warmup_steps": 0}
INDEXED = {"scorer": "indexer", "window": 5}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "dsa": ("dsa", {"keys": 6} | WARM),
    "mla_dsa": ("mla_dsa", {"keys": 6} | WARM),
    "csa": ("csa", {"keys": 3, "window": 5} | WARM),
    "hca": ("hca", {"block": 4, "window": 5}),
    "block pooled": ("selected", {"keys": 12, "block": 4}),
    "block indexer": ("selected", {"keys": 12, "block": 4} | INDEXED | WARM),
    "token pooled": ("selected", {"keys": 6, "granularity": "token", "window": 5}),
    "token indexer": ("selected", {"keys": 6, "granularity": "token"} | INDEXED | WARM),
}
BRINGS = [name for name, (option, _) in OPTIONS.items() if option not in ("csa", "hca")]  # keys or queries to the other


def make(load_option: Callable[..., Any], name: str, spec: LayerSpec) -> AttentionLayer:
    option, settings = OPTIONS[name]
    layer = attention_layer(spec, load_option("attention", option, **settings))
    initialise(layer, seed=0)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)  # so that scores differ by more than their rounding
    return layer


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What was chosen, and that scores of single precision at least were looked at."""
    found: list[Tensor] = []

    def spy(scores: Tensor, allowed: Tensor, count: int) -> Tensor:
        assert scores.dtype == torch.float32
        found.append(dense.highest(scores, allowed, count))
        return found[-1]

    for module in (selection, compressed_core):
        monkeypatch.setattr(module, "highest", spy)
    return found


@pytest.mark.parametrize("brings", [False, True])
@pytest.mark.parametrize("how", ["cast", "autocast"])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_outputs_are_near_and_choices_the_same(
    name: str, how: str, brings: bool, choices: list[Tensor], load_option: Callable[..., Any],
    make_spec: Callable[..., LayerSpec], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if brings and name not in BRINGS:
        pytest.skip("it has one way only")
    for threshold in ("ROUTE_FROM", "GATHER_FROM"):
        monkeypatch.setattr(selected_core, threshold, 0 if brings else 10**9)
    layer = make(load_option, name, make_spec(max_length=128))
    x = torch.randn(2, LENGTH, 16, generator=torch.Generator().manual_seed(0))
    padding = torch.arange(LENGTH).expand(2, -1) < 3
    given: list[Any] = []
    layer.core.register_forward_hook(lambda *call: given.append(call), with_kwargs=True)
    if how == "cast":
        layer, x = layer.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        mixed = layer(x.requires_grad_(), unrotated, padding)
    assert mixed.dtype == torch.bfloat16
    (core, args, kwargs, out) = given[0]
    picked = [choice.clone() for choice in choices]
    asked = getattr(core, "learning", None) and core.learning.penalty()
    (mixed.float().square().sum() + (asked or 0)).backward()
    for gradient in (x.grad, *(parameter.grad for parameter in layer.parameters())):
        assert gradient is not None
        assert gradient.isfinite().all()

    exact = copy.deepcopy(core).float()
    choices.clear()
    expected = exact(*(_single(each) for each in args), **{key: _single(each) for key, each in kwargs.items()})
    assert bool(picked) == (name != "hca")
    for ours, theirs in zip(choices, picked, strict=True):
        assert torch.equal(ours, theirs)
    tokens = ~padding[:, None, :, None]
    error = ((out.float() - expected) * tokens).norm() / (expected * tokens).norm()
    assert error < 0.01  # bfloat16 rounds by up to 0.004
    if asked is not None:
        torch.testing.assert_close(asked.float(), exact.learning.penalty().float(), rtol=0.02, atol=0.02)


def _single(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(_single(each) for each in x)
    return x.detach().float() if isinstance(x, Tensor) and x.is_floating_point() else x


@pytest.mark.parametrize("name", ["block indexer", "token indexer"])
def test_what_is_brought_compiles_in_one_graph_and_needs_no_numbers_to_be_counted(
    name: str, load_option: Callable[..., Any], make_spec: Callable[..., LayerSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for threshold in ("ROUTE_FROM", "GATHER_FROM"):
        monkeypatch.setattr(selected_core, threshold, 0)
    layer = make(load_option, name, make_spec(max_length=128)).double()
    x = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    torch.compiler.reset()
    found = []
    for function in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        out = function(x, unrotated)
        leaves = [x, *layer.parameters()]
        gradients = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True, materialize_grads=True)
        found.append([out, *gradients])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
    assert layer.to("meta")(torch.empty(2, 40, 16, dtype=torch.float64, device="meta"), unrotated).shape == x.shape
