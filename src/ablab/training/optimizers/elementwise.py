"""Whether an optimizer treats each number by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ablab.training.optimizers.groups import build_optimizer

_STEPS = 3
_ROWS, _COLUMNS = 6, 4


def is_elementwise(factory: Callable[..., Optimizer]) -> bool:
    """Whether a few steps with halves of a matrix and of a vector give what they give with the whole.

    Asked of the optimizer itself, since neither its name nor its class tells. One that does anything else than steps
    of its own accord (asks for a closure, say) is not.
    """
    try:
        whole = _train(factory, [slice(None)], [slice(None)])
        rows = _train(factory, [slice(0, 2), slice(2, None)], [slice(None)])
        columns = _train(factory, [slice(None)], [slice(0, 1), slice(1, None)])
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return all(torch.allclose(whole, other, rtol=1e-4, atol=1e-6) for other in (rows, columns))


def _train(factory: Callable[..., Optimizer], rows: list[slice], columns: list[slice]) -> Tensor:
    """The matrix and the vector beside it after a few steps, each part of them with an optimizer of its own."""
    generator = torch.Generator().manual_seed(0)
    start, bias = _drawn(_ROWS, _COLUMNS, generator), _drawn(_ROWS, 1, generator)
    gradients = [(_drawn(_ROWS, _COLUMNS, generator), _drawn(_ROWS, 1, generator)) for _ in range(_STEPS)]
    result = torch.zeros(_ROWS, _COLUMNS + 1)
    for row in rows:
        for column in columns:
            part = nn.utils.skip_init(nn.Linear, start[row, column].shape[1], start[row, column].shape[0])
            with torch.no_grad():
                part.weight.copy_(start[row, column])
                part.bias.copy_(bias[row, 0])
            optimizer = build_optimizer(factory, part)
            if hasattr(optimizer, "train"):
                optimizer.train()
            for of_matrix, of_vector in gradients:
                part.weight.grad, part.bias.grad = of_matrix[row, column].clone(), of_vector[row, 0].clone()
                optimizer.step()
            result[row, :_COLUMNS][:, column] = part.weight.detach()
            result[row, _COLUMNS] = part.bias.detach()
    return result


def _drawn(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator)
