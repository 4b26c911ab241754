"""The rest of a softmax whose keys have been merged: queries that none was brought to, and sinks.

A sink is one more branch of each row, of a known log-sum-exp and value zero. Once it is merged, the backward pass of
the keys needs to know nothing of it, as of any other branch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ablab.model.attention.kernel import NOBODY, Scale


@dataclass(frozen=True)
class Rest:
    """What the end of a pass needs beside the merged keys."""

    q: Tensor  # (B, T, H, D), as k
    k: Tensor
    v: Tensor  # (B, T, H, Dv)
    padding: Tensor | None  # (B, T)
    sinks: Tensor | None  # (H,)
    scale: Scale
    own_if_alone: bool

    def finish(self, out: Tensor, lse: Tensor, *, everybody: bool) -> tuple[Tensor, Tensor]:
        """The output (B, T, H, Dv) and the log-sum-exp (B, T, H), infinite where a query sees nothing.

        Args:
            everybody: each query sees some key.
        """
        nobody = None if everybody else (lse < NOBODY).nonzero(as_tuple=True)  # few, if any
        if self.sinks is not None:
            total = torch.logaddexp(lse, self.sinks.to(lse.dtype))
            out, lse = out * (lse - total).exp().unsqueeze(-1), total
        if nobody is not None:
            out[nobody] = self._of_own(nobody) if self.own_if_alone else self.v.new_zeros(())
            lse[nobody] = math.inf
        return out, lse

    def backward(self, grad: Tensor, out: Tensor, lse: Tensor, found: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The gradient of the sinks, empty without them; those of q, k and v are added to `found`."""
        grad_sinks = lse.new_empty(0)
        if self.sinks is not None:  # of value zero, so that the gradient of a score is the weight times -grad . out
            weights = (self.sinks.to(lse.dtype) - lse).exp()
            grad_sinks = -(weights * (grad * out).sum(-1)).sum((0, 1))
        if not self.own_if_alone:
            return grad_sinks
        alone = lse.isinf()
        if self.padding is not None:
            alone &= ~self.padding[:, :, None]
        rows = alone.nonzero(as_tuple=True)
        grad_q, grad_k, grad_v = found
        if self.sinks is None:
            grad_v[rows] += grad[rows]
            return grad_sinks
        weight = self._own_weight(rows, self.sinks)
        grad_v[rows] += grad[rows] * weight.unsqueeze(-1)
        grad_score = (grad[rows] * self.v[rows]).sum(-1) * weight * (1 - weight)
        grad_sinks.index_add_(0, rows[2], -grad_score)
        scores = self.scale.of_pairs(self.q[rows], self.k[rows])
        grad_product = (grad_score * self.scale.slopes(scores)).unsqueeze(-1)
        grad_q[rows] += grad_product * self.k[rows]
        grad_k[rows] += grad_product * self.q[rows]
        return grad_sinks

    def _of_own(self, rows: tuple[Tensor, ...]) -> Tensor:
        """What queries get that see their own key alone: its value, unless padded, of which a sink takes a part."""
        alone = self.v[rows]
        if self.padding is not None:
            alone = alone.masked_fill(self.padding[rows[:2]].unsqueeze(-1), 0)
        return alone if self.sinks is None else alone * self._own_weight(rows, self.sinks).unsqueeze(-1)

    def _own_weight(self, rows: tuple[Tensor, ...], sinks: Tensor) -> Tensor:
        """What sinks leave of a softmax over a query's own key."""
        return (self.scale.of_pairs(self.q[rows], self.k[rows]) - sinks.to(self.q.dtype)[rows[2]]).sigmoid()
