"""What attention that is written out has in common: the softmax of what is seen, and what is computed again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.certify import certify
from ablab.model.attention import dense
from ablab.model.attention.base import softmax_of
from ablab.model.attention.dense import recomputed


def by_definition(scores: Tensor, sinks: Tensor | None, seen: Tensor) -> Tensor:
    """exp(score) of what is seen over their sum and the sink's."""
    shares = scores.exp() * seen
    total = shares.sum(-1, keepdim=True) + (0 if sinks is None else sinks.exp().unsqueeze(-1))
    return torch.where(total == 0, 0, shares / torch.where(total == 0, 1, total))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 6)),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    alike=st.booleans(),
    with_sinks=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_softmax_of_what_is_seen_and_its_gradients(
    shape: tuple[int, ...], share: float, alike: bool, with_sinks: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    seen = torch.rand(shape[0], 1 if alike else shape[1], *shape[2:]) < share  # of all heads, or of each
    sinks = torch.randn(shape[1], 1, dtype=torch.float64, requires_grad=True) if with_sinks else None
    inputs = [scores] if sinks is None else [scores, sinks]
    ours, theirs = softmax_of(scores, sinks, seen), by_definition(scores, sinks, seen)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn(shape, dtype=torch.float64)
    for own, other in zip(*(torch.autograd.grad(each, inputs, direction) for each in (ours, theirs)), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_softmax_keeps_its_precision_and_a_row_of_nothing_its_gradient(dtype: torch.dtype) -> None:
    scores = torch.randn(2, 3, 4, 5).to(dtype).requires_grad_()
    seen = torch.ones(2, 1, 4, 5, dtype=torch.bool)
    seen[0, 0, 2] = False
    weights = softmax_of(scores, None, seen)
    assert weights.dtype == dtype
    assert not weights[0, :, 2].any()
    weights.square().sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert not scores.grad[0, :, 2].any()


@pytest.mark.parametrize("hidden", [float("inf"), float("nan"), -float("inf")])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_what_is_hidden_may_be_anything(hidden: float, with_sinks: bool) -> None:
    """In half precision a product that nobody sees may be infinite."""
    scores = torch.tensor([[hidden, 1.0, 2.0], [hidden, hidden, hidden]]).requires_grad_()
    seen = torch.tensor([[False, True, True], [False] * 3])
    weights = softmax_of(scores, torch.zeros(2) if with_sinks else None, seen)
    total = (torch.tensor([1.0, 2.0]).exp().sum() + int(with_sinks)).item()
    expected = torch.tensor([[0.0, 1.0, 2.0], [0.0] * 3]).exp() / total * seen
    torch.testing.assert_close(weights, expected)
    weights.square().sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize(("scores", "times"), [(None, 2), (dense.KEPT + 1, 2), (dense.KEPT, 1)])
def test_what_has_few_scores_is_not_computed_again(scores: int | None, times: int) -> None:
    called = []

    def square(x: Tensor) -> Tensor:
        called.append(x.shape)
        return x.exp().square()

    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(recomputed(square, x, scores=scores).sum(), x)
    assert len(called) == times
    torch.testing.assert_close(gradient, 2 * x.exp().square())


@pytest.mark.parametrize("option", ["dsa", "mla_dsa", "csa", "hca", "nsa", "topk", "block_sparse", "selected"])
def test_flops_are_counted_of_computing_once(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With values as without them, of sequences that training computes again slice by slice."""

    def again(*args: object, **settings: object) -> None:
        raise AssertionError("is computed again")

    monkeypatch.setattr(dense, "KEPT", 0)
    monkeypatch.setattr(dense, "checkpoint", again)
    counted = certify(f"attention={option}", checks=["flops"]).checks
    assert [check.outcome for check in counted] == ["pass"], counted
    assert "a step 1.00x" in counted[0].detail
