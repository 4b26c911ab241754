"""What every option of the axis promises as a layer (`ablab.model.attention.base`), whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from promises import LENGTH, gradients, stream, unrotated
from torch import Tensor

from ablab.model.attention.layer import AttentionLayer
from ablab.model.spec import LayerSpec

Layer = Callable[..., AttentionLayer]

# Options of whose gradients graphs are traced in tests of their own, which takes several times as long.
COMPILED_ELSEWHERE = {
    *("block_sparse", "dynamic", "full", "lsh", "mla", "nsa", "selected", "topk", "windowed"),
    "pattern",  # is made of others
}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7, 65, 300])
def test_any_length_gives_finite_outputs_and_gradients(
    make_layer: Layer, spec: Callable[..., LayerSpec], length: int, causal: bool
) -> None:
    layer, x = make_layer(spec(causal=causal)), stream(2, length).requires_grad_()
    out = layer(x, unrotated)
    assert out.shape == x.shape
    leaves = [x, *layer.parameters()]
    assert all(gradient.isfinite().all() for gradient in (out, *gradients(out, leaves)))


@pytest.mark.parametrize("padded", [False, True])
def test_earlier_outputs_do_not_hear_of_later_tokens(
    make_layer: Layer, spec: Callable[..., LayerSpec], padded: bool
) -> None:
    layer, x = make_layer(spec()), stream(2, LENGTH)
    padding = torch.arange(LENGTH).expand(2, -1) % 7 == 3 if padded else None
    before = layer(x, unrotated, padding)
    for place in (1, 33, LENGTH - 1):
        changed = x.clone()
        changed[:, place:] = stream(2, LENGTH - place, seed=place) * 3
        after = layer(changed, unrotated, padding)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
        assert not torch.allclose(after[:, place:], before[:, place:])


@pytest.mark.parametrize("causal", [True, False])
def test_padding_does_not_matter_and_breaks_nothing(
    make_layer: Layer, spec: Callable[..., LayerSpec], causal: bool
) -> None:
    layer, x = make_layer(spec(causal=causal)), stream(3, LENGTH)
    positions = torch.arange(LENGTH)
    padding = torch.stack([positions < 9, positions % 3 == 1, positions >= 0])
    changed = torch.where(padding.unsqueeze(-1), stream(3, LENGTH, seed=1) * 100, x).requires_grad_()
    out = layer(changed, unrotated, padding)
    assert out.isfinite().all()
    torch.testing.assert_close(out[~padding], layer(x, unrotated, padding)[~padding], rtol=1e-9, atol=1e-12)
    assert all(gradient.isfinite().all() for gradient in gradients(out, [changed, *layer.parameters()]))
    (reached,) = torch.autograd.grad(layer(changed, unrotated, padding)[~padding].square().sum(), changed)
    assert not reached[padding].any()


def test_a_sequence_does_not_depend_on_its_place_in_the_batch(
    make_layer: Layer, spec: Callable[..., LayerSpec]
) -> None:
    layer, x = make_layer(spec()), stream(3, LENGTH)
    out = layer(x, unrotated)
    torch.testing.assert_close(layer(x.flip(0), unrotated).flip(0), out, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(x[1:2], unrotated), out[1:2], rtol=0, atol=1e-12)


def test_evaluation_is_deterministic_and_training_a_function_of_the_step(
    make_layer: Layer, spec: Callable[..., LayerSpec]
) -> None:
    layer, x = make_layer(spec()), stream(2, LENGTH)

    def at(step: int) -> Tensor:
        each: Any
        for each in layer.modules():
            if hasattr(each, "resample"):
                each.resample(step)
        out: Tensor = layer(x, unrotated)
        return out

    once = at(3)
    layer.eval()
    assert torch.equal(at(3), at(4))
    layer.train()
    at(4)
    assert torch.equal(at(3), once)


def test_any_number_of_threads_gives_the_same(make_layer: Layer, spec: Callable[..., LayerSpec]) -> None:
    """Outputs to the last bit; gradients to rounding, since PyTorch's fused kernel itself promises no more."""
    layer, x = make_layer(spec()), stream(2, 300).requires_grad_()
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            out = layer(x, unrotated)
            found.append((out, *gradients(out, [x])))
    finally:
        torch.set_num_threads(threads)
    (out, *gradient), (other_out, *other_gradient) = found
    assert torch.equal(out, other_out)
    torch.testing.assert_close(gradient, other_gradient, rtol=1e-12, atol=1e-12)


def test_compiles_in_one_graph(attention_option: str, make_layer: Layer, spec: Callable[..., LayerSpec]) -> None:
    layer, x = make_layer(spec()), stream(2, LENGTH).requires_grad_()
    backend = "eager" if attention_option in COMPILED_ELSEWHERE else "aot_eager"
    padding = torch.arange(LENGTH).expand(2, -1) < 5
    torch.compiler.reset()
    found = []
    for function in (layer, torch.compile(layer, fullgraph=True, backend=backend)):
        out = function(x, unrotated, padding)
        found.append((out, *gradients(out, [x, *layer.parameters()])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_needs_no_numbers_to_be_measured(make_layer: Layer, spec: Callable[..., LayerSpec]) -> None:
    """On the meta device, where floating-point operations are counted."""
    layer = make_layer(spec()).to("meta")
    x = torch.empty(2, LENGTH, 16, dtype=torch.float64, device="meta")
    assert layer(x, unrotated).shape == x.shape
