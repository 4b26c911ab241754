"""The engine for windows on CUDA, held to the one for CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from ablab.model.attention import windowed
from ablab.model.attention.flex import flex_rule_attention
from ablab.model.attention.windowed import WindowedAttention

MakeProblem = Callable[..., Any]

WINDOWS = [
    {"window": 1},
    {"window": 20},
    {"window": 500},
    {"window": 9, "dilation": 4},
    {"window": 12, "global_tokens": 5},
    {"window": 3, "dilation": 60, "global_tokens": 130},
]


@pytest.fixture(autouse=True)
def _always_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short sequences are not special."""
    monkeypatch.setattr(windowed, "DENSE_BELOW", 0)


# Not compiled, FlexAttention warns that it computes all scores, which so short a sequence allows.
@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")
@pytest.mark.parametrize("options", WINDOWS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [None, "holes", "everything"])
@pytest.mark.parametrize("share_qk", [True, False])
def test_forward_is_that_of_the_cpu(
    make_problem: MakeProblem, options: dict[str, Any], causal: bool, padded: str | None, share_qk: bool
) -> None:
    heads = (2, 2) if share_qk else (4, 2)
    problem = make_problem(length=150, heads=heads, sizes=(8, 4), causal=causal, padded=padded)
    inputs, padding = [x.detach() for x in problem.inputs(share_qk=share_qk)], problem.padding()
    core = WindowedAttention(problem.spec, share_qk=share_qk, **options)
    q, k, v = inputs
    found = flex_rule_attention(q, k, v, core.local, padding, own_if_alone=share_qk, attention=flex_attention)
    tokens = torch.ones(2, 150, dtype=torch.bool) if padding is None else ~padding
    ours, expected = (out * tokens[:, None, :, None] for out in (found, core(*inputs, padding)))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def both(core: WindowedAttention, inputs: list[Tensor], padding: Tensor | None, device: str) -> list[Tensor]:
    """The output and the gradients of q, k and v, as they come from `device`."""
    moved = [x.detach().to(device).requires_grad_() for x in inputs]
    there = None if padding is None else padding.to(device)
    out = core.to(device)(*moved, there)
    if there is not None:
        out = out.masked_fill(there[:, None, :, None], 0)
    return [x.cpu() for x in (out, *torch.autograd.grad(out.square().sum(), moved))]


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has a backward pass on CUDA only")
@pytest.mark.parametrize("options", WINDOWS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [None, "holes"])
@pytest.mark.parametrize("share_qk", [True, False])
def test_outputs_and_gradients_on_cuda_are_those_of_the_cpu(
    make_problem: MakeProblem, options: dict[str, Any], causal: bool, padded: str | None, share_qk: bool
) -> None:
    heads = (2, 2) if share_qk else (4, 2)
    problem = make_problem(length=150, heads=heads, sizes=(16, 16), causal=causal, padded=padded, dtype=torch.float32)
    core = WindowedAttention(problem.spec, share_qk=share_qk, **options)
    inputs, padding = problem.inputs(share_qk=share_qk), problem.padding()
    expected, found = (both(core, inputs, padding, device) for device in ("cpu", "cuda"))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() < 2e-3 * theirs.norm()  # CUDA may multiply with fewer bits than the CPU
