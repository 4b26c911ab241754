"""Parts of a recurrence in chunks (`ablab.model.attention.recurrence`): decays within them, and states between."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, register_flop_formula


class Fading:
    """How much is left, of what is written at one token of a chunk, at another.

    Args:
        log_decay: (B, H, N, C, 1), of each token.

    Attributes:
        between: (B, H, N, C, C), from the column's token to the row's; 0 where that comes before it.
        from_start: (B, H, N, C, 1), from before the chunk.
        to_end: (B, H, N, C, 1), to the end of the chunk.
        whole: (B, H, N, 1, 1), from before the chunk to its end.
    """

    def __init__(self, log_decay: Tensor) -> None:
        # Sums over the tokens between, not differences of sums from the start: where a head has forgotten much, those
        # would have few digits left.
        C = log_decay.shape[-2]
        self.between = log_decay.expand(*log_decay.shape[:-1], C).tril(-1).cumsum(-2).exp().tril()
        from_start = log_decay.cumsum(-2)
        self.from_start, self.whole = from_start.exp(), from_start[..., -1:, :].exp()
        self.to_end = self.between[..., -1:, :].mT


def states_between(written: Tensor, onward: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The state before each chunk, (B, heads, N, ...), and the one after the last.

    Args:
        written: (B, heads, N, ...), what each chunk adds to it.
        onward: likewise, what each chunk multiplies it with, number by number.
        state: before the first chunk; None: 0.
    """
    states = [torch.zeros_like(written[:, :, 0]) if state is None else state]
    for n, (added, factor) in enumerate(zip(written.unbind(2), onward.unbind(2), strict=True)):
        states.append(added if state is None and n == 0 else added + factor * states[-1])
    return torch.stack(states[:-1], 2), states[-1]


def cut(x: Tensor, size: int) -> Tensor:
    """(B, heads, N * size, D) -> (B, heads, N, size, D)."""
    parts: Tensor = x.unflatten(2, (-1, size))
    return parts


def side_by_side(x: Tensor, groups: int) -> Tensor:
    """(B, H, N, C, Dv) -> (B, groups, N, C, H / groups * Dv): each group's heads in one."""
    heads: Tensor = x.unflatten(1, (groups, -1))
    return heads.permute(0, 1, 3, 4, 2, 5).flatten(-2)


def apart(x: Tensor, heads: int) -> Tensor:
    """(B, groups, N, C, heads / groups * Dv) -> (B, heads, N, C, Dv)."""
    each: Tensor = x.unflatten(-1, (heads // x.shape[1], -1))
    return each.permute(0, 1, 4, 2, 3, 5).flatten(1, 2)


def _solve_flops(matrix: Sequence[int], given: Sequence[int], *, left: bool = True, **others: object) -> int:
    """Half of those of a product, where all of the matrix counts."""
    return math.prod(given) * matrix[-1]


def _product_flops(added: Sequence[int], left: Sequence[int], right: Sequence[int], **others: object) -> int:
    """Of a product that is added in place; the registry has those that are not."""
    return 2 * math.prod(left) * right[-1]


if torch.ops.aten.linalg_solve_triangular not in flop_registry:
    register_flop_formula(torch.ops.aten.linalg_solve_triangular)(_solve_flops)
if torch.ops.aten.baddbmm_ not in flop_registry:
    register_flop_formula(torch.ops.aten.baddbmm_)(_product_flops)
