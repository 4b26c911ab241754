"""Arithmetic on many tensors at once: on a GPU one kernel for all, where a loop would launch one for each.

PyTorch's own optimizers are made of these operators, which have private names; this is the one file that uses them.
Where another version has none such, or they do something else, a loop over the tensors does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

Tensors = Sequence[Tensor]


def lerp(starts: Tensors, ends: Tensors, weight: float) -> list[Tensor]:
    """start + weight (end - start), as new tensors."""
    return list(_operators().lerp(starts, ends, weight))


def lerp_(starts: Tensors, ends: Tensors, weight: float) -> None:
    _operators().lerp_(starts, ends, weight)


def sign_(tensors: Tensors) -> None:
    _operators().sign_(tensors)


def mul_(tensors: Tensors, factor: float) -> None:
    _operators().mul_(tensors, factor)


def add_(tensors: Tensors, others: Tensors, *, alpha: float) -> None:
    """Add alpha times the others."""
    _operators().add_(tensors, others, alpha=alpha)


def addcmul_(tensors: Tensors, one: Tensors, other: Tensors, value: float) -> None:
    """Add value times one times the other."""
    _operators().addcmul_(tensors, one, other, value)


class _Loop:
    """The same by public operators, tensor by tensor."""

    @staticmethod
    def lerp(starts: Tensors, ends: Tensors, weight: float) -> list[Tensor]:
        return [start.lerp(end, weight) for start, end in zip(starts, ends, strict=True)]

    @staticmethod
    def lerp_(starts: Tensors, ends: Tensors, weight: float) -> None:
        for start, end in zip(starts, ends, strict=True):
            start.lerp_(end, weight)

    @staticmethod
    def sign_(tensors: Tensors) -> None:
        for tensor in tensors:
            tensor.sign_()

    @staticmethod
    def mul_(tensors: Tensors, factor: float) -> None:
        for tensor in tensors:
            tensor.mul_(factor)

    @staticmethod
    def add_(tensors: Tensors, others: Tensors, *, alpha: float) -> None:
        for tensor, other in zip(tensors, others, strict=True):
            tensor.add_(other, alpha=alpha)

    @staticmethod
    def addcmul_(tensors: Tensors, one: Tensors, other: Tensors, value: float) -> None:
        for tensor, a, b in zip(tensors, one, other, strict=True):
            tensor.addcmul_(a, b, value=value)


class _Torch:
    """PyTorch's. They are looked up when they are called for."""

    def __init__(self) -> None:
        self.lerp: Callable[..., Any] = torch._foreach_lerp
        self.lerp_: Callable[..., Any] = torch._foreach_lerp_
        self.sign_: Callable[..., Any] = torch._foreach_sign_
        self.mul_: Callable[..., Any] = torch._foreach_mul_
        self.add_: Callable[..., Any] = torch._foreach_add_
        self.addcmul_: Callable[..., Any] = torch._foreach_addcmul_


@cache
def _operators() -> _Torch | _Loop:
    """PyTorch's, if they exist and do what they did when this was written."""
    try:
        torchs = _Torch()
        same = all(torch.equal(a, b) for a, b in zip(_tried(torchs), _tried(_Loop()), strict=True))
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return _Loop()
    return torchs if same else _Loop()


@torch.no_grad()
def _tried(operators: _Torch | _Loop) -> list[Tensor]:
    """Each of them once, on small numbers that are exact."""
    tensors = [torch.tensor([1.0, -2.0]), torch.tensor([[8.0]])]
    others = [torch.tensor([3.0, 2.0]), torch.tensor([[-4.0]])]
    mixed = list(operators.lerp(tensors, others, 0.25))
    kept = [tensor.clone() for tensor in tensors]
    operators.lerp_(tensors, others, 0.5)
    operators.addcmul_(tensors, others, others, 0.5)
    operators.mul_(tensors, 0.25)
    operators.sign_(others)
    operators.add_(tensors, others, alpha=-2.0)
    return [*mixed, *kept, *tensors, *others]
