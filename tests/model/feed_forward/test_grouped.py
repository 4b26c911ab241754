"""Rows sorted by expert, multiplied together and brought back are what a loop over tokens gives, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ablab.model.feed_forward import grouped
from ablab.model.feed_forward.grouped import gathered, grouped_product, places, spread

Given = tuple[Tensor, Tensor, Tensor, Tensor]  # tokens, matrices, gates, choice


def drawn(tokens: int, k: int, experts: int, sizes: tuple[int, int], dtype: torch.dtype, seed: int) -> Given:
    generator = torch.Generator().manual_seed(seed)
    x, weight, gates = (
        torch.randn(shape, generator=generator).to(dtype).requires_grad_()
        for shape in ((tokens, sizes[0]), (experts, *sizes), (tokens, k))
    )
    chosen = torch.stack([torch.randperm(experts, generator=generator)[:k] for _ in range(tokens)])
    return x, weight, gates, chosen


def ours(x: Tensor, weight: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
    at = places(chosen, len(weight))
    return gathered(grouped_product(spread(x, at), weight, at.counts), gates, at)


def naive(x: Tensor, weight: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
    return torch.einsum("nk,nd,nkde->ne", gates, x, weight[chosen])


def agree(given: Given, tolerance: float) -> None:
    *leaves, _ = given
    found, expected = ours(*given), naive(*given)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    # A sum has a gradient without memory of its own, which not every kernel takes.
    for loss in (torch.sum, lambda y: y.square().sum()):
        own, theirs = (torch.autograd.grad(loss(y), leaves, retain_graph=True) for y in (found, expected))
        for one, other in zip(own, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.detach().abs().max()))


@given(
    tokens=st.integers(1, 9),
    k=st.integers(1, 3),
    more=st.integers(0, 3),
    sizes=st.sampled_from([(4, 8), (8, 4), (5, 3), (4, 3)]),
    single=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_the_same_as_a_loop(tokens: int, k: int, more: int, sizes: tuple[int, int], single: bool, seed: int) -> None:
    dtype, tolerance = (torch.float32, 1e-4) if single else (torch.float64, 1e-10)
    agree(drawn(tokens, k, k + more, sizes, dtype, seed), tolerance)


def test_all_tokens_to_one_expert() -> None:
    x, weight, gates, _ = drawn(7, 1, 4, (4, 4), torch.float32, 0)
    agree((x, weight, gates, torch.full((7, 1), 2)), 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_product_where_torch_has_it(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one for each expert; and what has the right widths is not copied."""
    calls = []

    def counted(*args: Any, **settings: Any) -> Tensor:
        calls.append(args)
        return torch.nn.functional.grouped_mm(*args, **settings)

    monkeypatch.setattr(grouped, "grouped_mm", counted)
    given = drawn(6, 2, 3, (16, 8), dtype, 1)
    found = ours(*given)
    assert found.dtype == dtype
    ((_, matrices),) = calls
    assert matrices.data_ptr() == given[1].data_ptr()
    torch.testing.assert_close(found.float(), naive(*(x.float() if x.is_floating_point() else x for x in given)),
                               rtol=0.05, atol=0.2 if dtype == torch.bfloat16 else 0.05)  # fmt: skip


def test_autocast_decides_on_the_precision() -> None:
    x, weight, gates, chosen = drawn(6, 2, 3, (16, 8), torch.float32, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x, weight, gates, chosen)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), naive(x, weight, gates, chosen), rtol=0.05, atol=0.2)
    assert all(each.dtype == torch.float32 for each in torch.autograd.grad(found.float().sum(), (x, weight, gates)))


def test_as_many_operations_with_values_as_without() -> None:
    counts = []
    for device in ("cpu", "meta"):
        given = [each.detach().to(device) for each in drawn(6, 2, 3, (16, 8), torch.float32, 1)]
        with FlopCounterMode(display=False) as counter:
            ours(*given)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 6 * 2 * 8 * (16 + 1)


def test_a_plain_sum_of_rows_is_no_product() -> None:
    x, at = torch.randn(6, 8, requires_grad=True), places(torch.randint(3, (6, 2)), 3)
    with FlopCounterMode(display=False) as counter:
        spread(x, at).sum().backward()
    assert counter.get_total_flops() == 0
