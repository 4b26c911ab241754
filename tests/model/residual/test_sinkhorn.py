"""The Sinkhorn-Knopp iteration beside itself written out, with the gradients that autograd finds of that."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.residual.sinkhorn import sinkhorn


def by_definition(logits: Tensor, rounds: int, eps: float) -> Tensor:
    ways = logits.softmax(-1) + eps
    for round in range(rounds):
        if round:
            ways = ways / (ways.sum(-1, keepdim=True) + eps)
        ways = ways / (ways.sum(-2, keepdim=True) + eps)
    return ways


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    before=st.sampled_from([(), (3,), (2, 5)]),
    n=st.integers(1, 6),
    rounds=st.integers(1, 25),
    eps=st.sampled_from([0.0, 1e-6, 1e-2]),
    size=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 1000),
)
def test_values_and_gradients(before: tuple[int, ...], n: int, rounds: int, eps: float, size: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits = (size * torch.randn(*before, n, n, dtype=torch.float64)).requires_grad_()
    direction = torch.randn_like(logits)
    ours, theirs = sinkhorn(logits, rounds=rounds, eps=eps), by_definition(logits, rounds, eps)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    (own,), (other,) = (torch.autograd.grad(each, logits, direction) for each in (ours, theirs))
    torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-10)


def test_single_precision_is_near() -> None:
    """The way back multiplies by what the way there divided by, forty times over."""
    torch.manual_seed(0)
    logits, direction = 3 * torch.randn(500, 4, 4), torch.randn(500, 4, 4)
    found: list[Tensor] = []
    for dtype in (torch.float32, torch.float64):
        own = logits.to(dtype).requires_grad_()
        found += torch.autograd.grad(sinkhorn(own, rounds=20, eps=1e-6), own, direction.to(dtype))
    torch.testing.assert_close(found[0].double(), found[1], rtol=1e-3, atol=1e-5)


def test_what_the_compiler_is_given_is_the_same() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    eager = partial(sinkhorn, rounds=7, eps=1e-6)
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    ours, theirs = (torch.autograd.grad(f(logits).square().sum(), logits) for f in (eager, compiled))
    torch.testing.assert_close(ours, theirs)


def test_stacked_it_is_each_by_itself() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    gradient = torch.func.grad(lambda each: sinkhorn(each, rounds=6, eps=1e-6).square().sum())
    torch.testing.assert_close(torch.func.vmap(gradient)(logits), torch.stack([gradient(each) for each in logits]))


def test_a_second_derivative_is_refused_and_not_made_up() -> None:
    logits = torch.randn(3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(sinkhorn(logits, rounds=3, eps=0.0).square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
