"""The Sinkhorn-Knopp iteration, by which `ablab.model.residual.streams` makes a mix doubly stochastic."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def sinkhorn(logits: Tensor, *, rounds: int, eps: float) -> Tensor:
    """Make exp(logits) (..., n, n) doubly stochastic: rows are divided by their sums, then columns, `rounds` times.

    Columns are exact in the end, rows as good as the rounds make them.

    Args:
        eps: added to the first quotients, and to sums before they divide.
    """
    ways = logits.movedim((-2, -1), (0, 1)).contiguous()  # sums over what lies far apart in memory are the faster ones
    ways = ways.softmax(1) + eps
    if torch.compiler.is_compiling():  # which makes one kernel of it by itself
        for step in range(2 * rounds - 1):
            ways = ways / (ways.sum(step % 2, keepdim=True) + eps)
    else:
        ways, _ = cast("tuple[Tensor, Tensor]", _Balanced.apply(ways, rounds, eps))  # type: ignore[no-untyped-call]
    return ways.movedim((0, 1), (-2, -1))


class _Balanced(torch.autograd.Function):
    """The steps behind the first: columns, the first dimension, and rows are divided in turn, columns once more.

    In place, and with the sums alone kept of every step: the way back multiplies by them to have again what was
    divided. Autograd would keep every quotient, and take seven operations for each where five do.
    """

    generate_vmap_rule = True  # of stacked seeds

    @staticmethod
    def forward(ways: Tensor, rounds: int, eps: float) -> tuple[Tensor, Tensor]:
        ways, sums = ways.clone(), []
        for step in range(2 * rounds - 1):
            sums.append(ways.sum(step % 2).add_(eps))
            ways.div_(sums[-1].unsqueeze(step % 2))
        return ways, torch.stack(sums)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        ways, sums = ctx.saved_tensors
        ways, grad = ways.clone(), grad.clone(memory_format=torch.contiguous_format)
        for step, total in reversed(list(enumerate(sums.unbind()))):
            total = total.unsqueeze(step % 2)
            grad.sub_((grad * ways).sum(step % 2, keepdim=True)).div_(total)
            ways.mul_(total)
        return grad, None, None
