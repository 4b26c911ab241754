"""Peak memory against calls whose allocations are known to the byte."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ablab.bench.attention.cost import peak_bytes

MEGABYTE = 2**20


def floats(megabytes: int) -> Tensor:
    return torch.empty(megabytes * MEGABYTE // 4)


@pytest.mark.parametrize("kept", [1, 7])
def test_what_is_held_at_once_counts_with_the_result(kept: int) -> None:
    def call() -> Tensor:
        first = floats(5)
        second = floats(3)
        del first
        third = floats(2)  # 5 at most with `second`, below the 8 of before
        del second, third
        return floats(kept)

    assert peak_bytes(call, "cpu") == 8 * MEGABYTE


def test_what_was_there_before_does_not_count() -> None:
    before = floats(9)
    assert peak_bytes(lambda: before.add_(1), "cpu") < 100
    assert peak_bytes(lambda: before.clone(), "cpu") == 9 * MEGABYTE


def test_what_backward_allocates_counts() -> None:
    x = floats(4).zero_().requires_grad_()

    def call() -> tuple[Tensor, ...]:
        # exp keeps its result of 4 for the backward pass, and the sum's gradient is a view: the product is 4 more.
        return torch.autograd.grad(x.exp().sum(), x)

    assert 8 * MEGABYTE <= peak_bytes(call, "cpu") < 8 * MEGABYTE + 100
