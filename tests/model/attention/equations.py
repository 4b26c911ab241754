"""What definitions of attention layers are written with, and how a layer is held to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ablab.model.attention.layer import Rotate

Definition = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]  # of input and padding: output, and what is lost


def random(*shape: int, seed: int = 0) -> Tensor:
    """Drawn from a normal distribution, in double precision."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fill(layer: nn.Module) -> None:
    """Draw all weights, those that begin as zeros or ones included."""
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(random(*parameter.shape, seed=100 + seed) / 2)


def linear(x: Tensor, layer: Any) -> Tensor:
    y: Tensor = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
    return y


def latent(x: Tensor, layers: Any) -> Tensor:
    """A projection, and a norm by the root mean square."""
    project, norm = layers
    y = linear(x, project)
    scaled: Tensor = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    return scaled


def rotated(x: Tensor, *, size: int, base: float) -> Tensor:
    """x (T, D), whose `size` leading coordinates are pairs of i and i + size / 2, turned as complex numbers."""
    half = size // 2
    speed = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.arange(len(x))[:, None] * speed
    turned = torch.complex(x[:, :half], x[:, half:size]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag, x[:, size:]], -1)


def check_defined(
    layer: Any, definition: Definition, rotate: Rotate, shape: tuple[int, int, int], padded: float | None, seed: int
) -> None:
    """Outputs where a token is, penalty and gradients of both are those of the definition.

    Args:
        shape: of the input that is drawn.
        padded: share of the tokens that are none; None: there is no mask.
    """
    x = random(*shape, seed=seed).requires_grad_()
    padding = None if padded is None else random(*shape[:2], seed=seed).sigmoid() < padded
    inputs, learning = [x, *layer.parameters()], layer.core.learning
    out = layer(x, rotate, padding)
    penalty = x.new_zeros(()) if learning is None else learning.penalty().double()
    expected, lost = definition(x, padding)
    there = 1.0 if padding is None else (~padding)[..., None].double()
    torch.testing.assert_close((out * there, penalty), (expected * there, lost), rtol=1e-9, atol=1e-9)
    direction = random(*out.shape, seed=seed) * there
    totals = [(direction * each).sum() + more for each, more in ((out, penalty), (expected, lost))]
    found = [torch.autograd.grad(each, inputs, allow_unused=True, materialize_grads=True) for each in totals]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
