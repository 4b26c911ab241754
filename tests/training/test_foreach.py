"""Arithmetic on many tensors at once is that of a loop over them, whichever PyTorch has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.training import foreach
from ablab.training.optimizers.lion import Lion
from ablab.training.schedules.gradient_variance import GradientVariance


@pytest.fixture(autouse=True)
def _asked_again() -> Iterator[None]:
    foreach._operators.cache_clear()
    yield
    foreach._operators.cache_clear()


def trained() -> list[Tensor]:
    """Weights, momenta and averages after steps of what uses all of the operators."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((7, 3), (5,), (2, 2, 2))]
    optimizer = Lion(weights, lr=0.01)
    schedule = GradientVariance(optimizer, total_steps=6, warmup_share=0.0)
    for _ in range(6):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
        schedule.step()
    momenta = [optimizer.state[weight]["momentum"] for weight in weights]
    return [*(weight.detach() for weight in weights), *momenta, *schedule.mean, *schedule.square]


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_foreach_lerp_")


def with_another_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    def added(tensors: list[Tensor], others: list[Tensor], *, alpha: float = 1.0) -> None:
        for tensor, other in zip(tensors, others, strict=True):
            tensor.add_(other)

    monkeypatch.setattr(torch, "_foreach_add_", added)


def with_other_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_foreach_mul_", lambda tensors: None)


@pytest.mark.parametrize("change", [without, with_another_meaning, with_other_arguments])
def test_another_version_of_torch_is_looped_to_the_same_last_digit(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(foreach._operators(), foreach._Torch)
    usual = trained()
    foreach._operators.cache_clear()
    change(monkeypatch)
    assert isinstance(foreach._operators(), foreach._Loop)
    assert all(map(torch.equal, usual, trained()))
