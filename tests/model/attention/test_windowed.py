from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.attention.naive import masked_attention, window_mask
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]


def qkv(length: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, length, 4, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 150),
    window=st.integers(1, 70),
    causal=st.booleans(),
    precision=st.sampled_from([(torch.float32, 1e-5), (torch.float64, 1e-9)]),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_are_those_of_the_definition(
    make_spec: Spec, length: int, window: int, causal: bool, precision: tuple[torch.dtype, float], seed: int
) -> None:
    dtype, tolerance = precision
    inputs = qkv(length, dtype, seed)
    out = WindowedAttention(make_spec(causal=causal), window=window)(*inputs)
    expected = masked_attention(*inputs, window_mask(length, window, causal))
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    gradients = torch.autograd.grad(out, inputs, direction)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, inputs, direction), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("length", "window"), [(100, 33), (100, 1), (33, 32), (64, 32), (65, 64), (7, 100)])
@pytest.mark.parametrize("causal", [True, False])
def test_visited_is_the_definition(make_spec: Spec, length: int, window: int, causal: bool) -> None:
    q, k, _ = qkv(length, torch.float32)
    positions = torch.tensor([0, length // 2, length - 1])
    visited = WindowedAttention(make_spec(causal=causal), window=window).visited(q, k, positions)
    assert torch.equal(visited, window_mask(length, window, causal)[positions])


def saved_elements(core: WindowedAttention, length: int) -> int:
    """Elements that backward keeps."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        core(*qkv(length, torch.float32))
    return total


def test_memory_grows_with_the_length_and_not_with_its_square(make_spec: Spec) -> None:
    core = WindowedAttention(make_spec(), window=32)
    once, twice, eightfold = (saved_elements(core, length) for length in (256, 512, 2048))
    assert twice == 2 * once
    assert eightfold == 8 * once


@pytest.mark.parametrize("causal", [True, False])
def test_inputs_as_a_block_hands_them_over(make_spec: Spec, causal: bool) -> None:
    """Heads are a transposed view of the projection, not memory of their own."""
    inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in qkv(75, torch.float64)]
    out = WindowedAttention(make_spec(causal=causal), window=10)(*inputs)
    torch.testing.assert_close(out, masked_attention(*inputs, window_mask(75, 10, causal)), rtol=1e-9, atol=1e-9)


def test_window_below_one(make_spec: Spec) -> None:
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        WindowedAttention(make_spec(), window=0)
