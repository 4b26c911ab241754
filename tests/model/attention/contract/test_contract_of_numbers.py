"""What every core promises of numbers: in any memory, in half precision, at extremes, and of its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from promises import LENGTH, gradients
from torch import Tensor

from ablab.model.attention.base import AttentionCore

MakeProblem = Callable[..., Any]
Core = Callable[..., AttentionCore]

HALF = {torch.bfloat16: 0.05, torch.float16: 0.01}


@pytest.mark.parametrize("layout", ["transposed", "expanded", "strided"])
def test_memory_may_lie_in_any_way(make_core: Core, make_problem: MakeProblem, layout: str) -> None:
    problem = make_problem(length=LENGTH, layout=layout)
    inputs = problem.inputs()
    straight = [x.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for x in inputs]
    core = make_core(problem)
    out, expected = core(*inputs), core(*straight)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(gradients(out, inputs), gradients(expected, straight), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", list(HALF))
def test_half_precision_stays_near_single(
    make_core: Core, make_problem: MakeProblem, dtype: torch.dtype, causal: bool
) -> None:
    problem = make_problem(length=LENGTH, dtype=dtype, causal=causal, padded="left")
    inputs, padding = problem.inputs(), problem.padding()
    single = [x.detach().float().requires_grad_() for x in inputs]
    out, expected = make_core(problem)(*inputs, padding), make_core(problem).float()(*single, padding)
    assert out.dtype == dtype
    assert out.isfinite().all()
    tokens = ~padding[:, None, :, None]
    torch.testing.assert_close(out.float() * tokens, expected * tokens, rtol=HALF[dtype], atol=HALF[dtype])
    for half, exact in zip(gradients(out * tokens, inputs), gradients(expected * tokens, single), strict=True):
        assert half.dtype == dtype
        assert (half.float() - exact).norm() < 2 * HALF[dtype] * exact.norm()


def test_autocast(make_core: Core, make_problem: MakeProblem) -> None:
    problem = make_problem(length=LENGTH, dtype=torch.float32)
    core, inputs = make_core(problem), problem.inputs()
    expected = core(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = core(*inputs)
        half = core(*(x.bfloat16() for x in inputs))
    assert half.dtype == torch.bfloat16
    assert out.dtype in (torch.bfloat16, torch.float32)
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    for ours, theirs in zip(gradients(out.float(), inputs), gradients(expected, inputs), strict=True):
        assert (ours - theirs).norm() < 0.1 * theirs.norm()


def extreme(kind: str, problem: Any) -> list[Tensor]:
    q, k, v = (x.detach().clone() for x in problem.inputs())
    if kind == "large":
        q, k = q * 300, k * 100
    elif kind == "same keys":
        k = k[:, :, :1].expand_as(k).clone()
    else:
        q = torch.zeros_like(q)
    return [x.requires_grad_() for x in (q, k, v)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["large", "same keys", "no query"])
@pytest.mark.parametrize("padded", [None, "sequence"])
def test_extreme_scores(
    make_core: Core, make_problem: MakeProblem, kind: str, padded: str | None, dtype: torch.dtype
) -> None:
    problem = make_problem(length=LENGTH, padded=padded, dtype=dtype)
    core, inputs = make_core(problem).eval(), extreme(kind, problem)
    out = core(*inputs, problem.padding())
    assert all(found.isfinite().all() for found in (out, *gradients(out, inputs)))
    if padded is None:
        q, k, v = (x.detach() for x in inputs)
        if kind == "large":
            assert (q @ k.transpose(-1, -2)).abs().max() > 1e5
        expected = core.weights(q, k, torch.arange(LENGTH)) @ v
        # The weights of large scores hang on the last bits of each score.
        tolerance = 1e-9 if dtype == torch.float64 else 0.02 if kind == "large" else 1e-5
        torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("length", [20, 300])
def test_a_diverged_model_shows_in_the_output_and_raises_nothing(
    make_core: Core, make_problem: MakeProblem, length: int, bad: float
) -> None:
    problem = make_problem(length=length, dtype=torch.float32)
    core = make_core(problem)
    for parameter in core.parameters():
        parameter.data.fill_(bad)
    q, k, v = ((x.detach() * bad).requires_grad_() for x in problem.inputs())
    out = core(q, k, v)
    assert not out.isfinite().all()
    gradients(out, [q, k, v])


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_those_of_differences(make_core: Core, make_problem: MakeProblem, causal: bool) -> None:
    problem = make_problem(length=8, batch=1, sizes=(4, 4), heads=(2, 1), causal=causal)
    assert torch.autograd.gradcheck(make_core(problem), problem.inputs(), fast_mode=True)
