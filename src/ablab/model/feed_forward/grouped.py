"""Tokens in the order of their experts, one product for all experts, and back: what a layer of experts spends time on.

Rows are moved twice, and both ways know their inverse, so that gradients are gathered, too: nothing is added up in an
order that could change, and no buffer is filled with zeros first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, grouped_mm, pad
from torch.utils.flop_counter import flop_registry, register_flop_formula

_ALIGNED = 16  # bytes, of which rows of a grouped product must be multiples
_GROUPED = (torch.float32, torch.bfloat16, torch.float16)  # that it has on a CPU


class Places(NamedTuple):
    """Where the rows of N tokens, K for each, stand once they are sorted by their experts."""

    order: Tensor  # (N * K,) int64: of each sorted row its token times K, plus which of the token's rows it is
    back: Tensor  # (N * K,) int64, the inverse
    owner: Tensor  # (N * K,) int64: of each sorted row its expert
    counts: Tensor  # (E,) int64: rows of each expert

    def tokens(self, n: int) -> Tensor:
        """Which of the n tokens each sorted row is of, (N * K,)."""
        return self.order.div(len(self.order) // n, rounding_mode="floor")


def places(chosen: Tensor, n_experts: int) -> Places:
    """Sort the experts of all tokens, (..., K) int64; rows of one expert stay in the order of their tokens."""
    expert = chosen.flatten()
    owner, order = expert.sort(stable=True)
    counts = torch.zeros(n_experts, dtype=torch.int64, device=chosen.device)
    back = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
    return Places(order, back, owner, counts.scatter_add(0, expert, torch.ones_like(expert)))


def spread(x: Tensor, at: Places) -> Tensor:
    """Tokens (N, D) as the rows that experts see, (N * K, D)."""
    if _by_torch(x):
        return x.index_select(0, at.tokens(len(x)))
    return cast(Tensor, _Spread.apply(x, at))  # type: ignore[no-untyped-call]


def gathered(rows: Tensor, gates: Tensor, at: Places) -> Tensor:
    """The sum over each token's rows (N * K, D) of its gate (N, K) times the row, in the order of the gates: (N, D)."""
    gates = gates.to(rows.dtype)
    if _by_torch(rows):  # what counts as a product elsewhere does so here
        return torch.einsum("nk,nkd->nd", gates, rows.index_select(0, at.back).view(*gates.shape, -1))
    return cast(Tensor, _Gathered.apply(rows, gates, at))  # type: ignore[no-untyped-call]


def _by_torch(x: Tensor) -> bool:
    """Whether gradients are PyTorch's own: where nothing has a value, and in a graph, which fuses its parts."""
    return x.is_meta or torch.compiler.is_compiling()


def grouped_product(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Rows (N, inputs) times the matrix of their group, weight (E, inputs, outputs) -> (N, outputs).

    Args:
        counts: (E,) int64, how many rows each group has; rows are sorted by group.
    """
    if rows.is_meta:  # where nothing has a value; as many products as elsewhere
        return rows @ weight[0]
    dtype = product_dtype(rows)
    if _can_group(rows, dtype):
        return in_one_kernel(rows.to(dtype), weight.to(dtype), counts)
    return one_by_one(rows, weight, counts)


def one_by_one(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """`grouped_product` group by group, where PyTorch has no product of all."""
    parts = rows.split(counts.tolist())
    # `unbind` has one gradient for all matrices together, and indexing would have one of full size for each.
    return torch.cat([part @ each for part, each in zip(parts, weight.unbind(), strict=True)])


def in_one_kernel(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """`grouped_product` by PyTorch's own, which takes rows of a multiple of 16 bytes alone: others are filled up."""
    (inputs, outputs), step = weight.shape[1:], _ALIGNED // weight.element_size()
    wide = _filled_up(rows, 0, -inputs % step)
    matrices = _filled_up(weight, 0, -outputs % step, 0, -inputs % step)
    return grouped_mm(wide, matrices, offs=counts.cumsum(0, dtype=torch.int32))[:, :outputs]


def _filled_up(x: Tensor, *by: int) -> Tensor:
    """`pad` copies even where there is nothing to add."""
    return pad(x, by) if any(by) else x


def _can_group(rows: Tensor, dtype: torch.dtype) -> bool:
    """Whether torch has the product as one: on a GPU in bfloat16; on a CPU uncompiled, and not in double precision."""
    if rows.is_cuda:
        return dtype == torch.bfloat16
    return rows.device.type == "cpu" and dtype in _GROUPED and not torch.compiler.is_compiling()


def product_dtype(rows: Tensor) -> torch.dtype:
    """That a product of them has."""
    kind = rows.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Places) -> Tensor:
        ctx.save_for_backward(at.back)
        ctx.tokens = len(x)
        return x.index_select(0, at.tokens(len(x)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (back,) = ctx.saved_tensors
        return embedding_bag(back.view(ctx.tokens, -1), grad, mode="sum"), None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, gates: Tensor, at: Places) -> Tensor:
        ctx.save_for_backward(rows, gates, *at)
        return embedding_bag(at.back.view(gates.shape), rows, per_sample_weights=gates, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, gates, *at = ctx.saved_tensors
        places = Places(*at)
        own = grad.index_select(0, places.tokens(len(gates)))
        of_gates = torch.linalg.vecdot(rows, own).index_select(0, places.back).view(gates.shape)
        return own.mul_(gates.flatten().index_select(0, places.order).unsqueeze(1)), of_gates, None


def _product_flops(rows: Sequence[int], other: Sequence[int], *others: object, **settings: object) -> int:
    """Each row meets one matrix; the gradient of the matrices is as much."""
    return 2 * math.prod(rows) * other[-1]


def _bag_flops(
    weight: Sequence[int],
    indices: Sequence[int],
    offsets: Sequence[int],
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Sequence[int] | None = None,
    *others: object,
    **settings: object,
) -> int:
    """Of a sum with weights, which is a product; a plain one is a sum, as others that count nothing."""
    return 0 if per_sample_weights is None else 2 * math.prod(indices) * weight[-1]


# By what PyTorch calls them inside; in a version with other names they are told of as not counted.
_FORMULAS: dict[str, Callable[..., int]] = {
    "_grouped_mm": _product_flops,
    "_embedding_bag": _bag_flops,
    "_embedding_bag_forward_only": _bag_flops,
}
for name, formula in _FORMULAS.items():
    operator = getattr(torch.ops.aten, name, None)
    if operator is not None and operator not in flop_registry:
        register_flop_formula(operator)(formula)
