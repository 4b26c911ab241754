"""Linear layers of several models at once, below `torch.func.vmap`: one batched product that has the bias in it.

Of a linear layer `vmap` makes a product and an addition, which reads and writes all of its result once more. On a CPU
that is a tenth of a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `torch.nn.functional.linear`, to be called below `vmap`.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,).
    """
    return functional.linear(x, weight) if bias is None else _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call,no-any-return]


class _Linear(torch.autograd.Function):
    """Autograd sees what it calls below `vmap`, so that it has no pass back of its own."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, int]:
        seeds = info.batch_size
        x, weight, bias = (
            each.expand(seeds, *each.shape) if dim is None else each.movedim(dim, 0)
            for each, dim in zip((x, weight, bias), in_dims, strict=True)
        )
        rows = x.reshape(seeds, -1, x.shape[-1])
        out = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
        return out.view(*x.shape[:-1], -1), 0
