"""Every option of the menu, on its way on CUDA by FlexAttention's stand-in, beside its way on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from switched import near
from torch import Tensor

from ablab.model.attention import block_sparse, full, windowed
from ablab.model.attention.flex.call import using
from ablab.model.attention.full import FullAttention
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
MakeProblem = Callable[..., Any]


@pytest.fixture(autouse=True)
def _always_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (block_sparse, full, windowed):
        monkeypatch.setattr(module, "DENSE_BELOW", 0)


def outcome(model: Transformer, tokens: Tensor) -> list[Tensor]:
    """Logits and gradients, what the parts ask for beside the loss included."""
    logits = model(tokens)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    parts: list[Any] = [part for part in model.modules() if hasattr(part, "penalty")]
    loss = loss + sum(part.penalty() for part in parts)
    return [logits, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)]


def test_every_option_of_the_menu_learns_the_same(build: Build, attention_option: str) -> None:
    model = build(attention=attention_option, n_layers=2, max_length=150).double().train()
    tokens = torch.randint(11, (2, 150), generator=torch.Generator().manual_seed(0))
    expected = outcome(model, tokens)
    with using("dense"):
        found = outcome(model, tokens)
    for ours, theirs in zip(found, expected, strict=True):
        near(ours, theirs, 1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [None, "holes", "everything"])
@pytest.mark.parametrize("switches", [{}, {"softcap": 2.0}, {"softcap": 2.0, "sinks": True}])
@pytest.mark.parametrize("sloping", [True, False])
def test_full_attention_with_switches(
    make_problem: MakeProblem, causal: bool, padded: str | None, switches: dict[str, Any], sloping: bool
) -> None:
    problem = make_problem(length=140, heads=(4, 2), causal=causal, padded=padded)
    core, inputs, padding = FullAttention(problem.spec, **switches), problem.inputs(), problem.padding()
    if sloping:
        core.weigh_down(torch.linspace(0.1, 0.4, 4, dtype=torch.float64))
    there = torch.ones(2, 140, dtype=torch.bool) if padding is None else ~padding
    outs = []
    for engine in (None, "dense"):
        if engine is None:
            out = core(*inputs, padding)
        else:
            with using(engine):
                out = core(*inputs, padding)
        out = out * there[:, None, :, None]
        outs.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for ours, theirs in zip(*outs, strict=True):
        near(ours, theirs, 1e-9)
