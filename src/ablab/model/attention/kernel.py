"""Softmax attention that also gives the log-sum-exp of each row, and the backward pass that takes one from outside.

Sub-quadratic attention is many small dense attentions whose results are merged. Two things make that exact:

* Branches over disjoint keys merge by their log-sum-exp: out = sum_b out_b exp(lse_b - lse).
* The gradient of a score is P (dP - rowsum(dO O)). With P, O and the log-sum-exp of the *whole* row, each branch's
  backward pass computes its exact share, so a branch is given the merged output and log-sum-exp.

On a CPU both passes are a private operator of PyTorch, behind `scaled_dot_product_attention`; where it is missing or
has changed, where scores are bounded, and on other devices, public operators do the same.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

# What stands for "does not see" in a bias. Finite, so that a row that sees nothing stays finite: its log-sum-exp is
# then below NOBODY, and its output means nothing. Larger than any score, so that a score added to it vanishes.
FLOOR = -(2.0**80)
NOBODY = FLOOR / 2


@dataclass(frozen=True)
class Scale:
    """How the product of a query and a key becomes their score: times `factor`, then bounded by cap tanh(score / cap).

    Gemma 2 (arXiv 2408.00118, section 2, "Logit soft-capping"); without a cap, `factor` alone.
    """

    factor: float
    cap: float | None = None

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """q (..., R, D) and k (..., K, D) -> (..., R, K)."""
        return self._bounded((q @ k.transpose(-1, -2)).mul_(self.factor))

    def of_pairs(self, q: Tensor, k: Tensor) -> Tensor:
        """q and k (..., D) -> (...), each query with its own key."""
        return self._bounded((q * k).sum(-1).mul_(self.factor))

    def slopes(self, scores: Tensor) -> Tensor | float:
        """The derivative of scores by products, given the scores."""
        return self.factor if self.cap is None else self.factor * (1 - (scores / self.cap).square())

    def _bounded(self, scores: Tensor) -> Tensor:
        return scores if self.cap is None else scores.div_(self.cap).tanh_().mul_(self.cap)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
    """softmax(scores + bias) v and the log-sum-exp of its rows.

    PyTorch's operator knows no cap; the public operators compute what has one.

    Args:
        q: (N, H, R, D), of any strides, as k (N, H, K, D) and v (N, H, K, Dv).
        bias: (R, K) or broadcastable to (N, H, R, K) with four dimensions, of the dtype of q.

    Returns:
        (N, H, R, Dv) and (N, H, R).
    """
    if _has_flash(q, v, scale):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=bias, scale=scale.factor
        )
        return out, lse
    scores = scale.scores(q, k).add_(bias)
    lse = scores.logsumexp(-1)
    return scores.sub_(lse.unsqueeze(-1)).exp_() @ v, lse


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, bias: Tensor, scale: Scale
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, given the output and log-sum-exp of the whole row, of which k may be only a part.

    A row whose `lse` is infinite contributes nothing.
    """
    if _has_flash(q, v, scale):
        gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, False, attn_mask=bias, scale=scale.factor
        )
        return gradients
    scores = scale.scores(q, k)
    slopes = scale.slopes(scores)
    weights = scores.add_(bias).sub_(lse.unsqueeze(-1)).exp_()
    grad_v = weights.transpose(-1, -2) @ grad
    grad_scores = (grad @ v.transpose(-1, -2)).sub_((grad * out).sum(-1, keepdim=True)).mul_(weights).mul_(slopes)
    return grad_scores @ k, grad_scores.transpose(-1, -2) @ q, grad_v


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """One softmax over the keys of both."""
    total = torch.logaddexp(lse, other_lse)
    share = (other_lse - total).exp_().unsqueeze(-1)
    return torch.lerp(out, other, share), total


def working_dtype(x: Tensor) -> torch.dtype:
    """The type to compute in: a CPU multiplies half precision slowly, and the merger of branches wants single."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Within it, what is computed on `device` keeps the dtype of its operands.

    For the merger of branches, and where a choice is made by comparing scores, which half precision would make ties.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _has_flash(q: Tensor, v: Tensor, scale: Scale) -> bool:
    return q.device.type == "cpu" and q.shape[-1] == v.shape[-1] and scale.cap is None and flash_works()


@cache
def flash_works() -> bool:
    """Whether the private operator exists and does here what it did when this was written."""
    try:
        q, k, v, grad = (torch.full((1, 1, 2, 8), x) for x in (0.5, -0.25, 2.0, 1.0))
        k[..., 1, :], v[..., 1, :] = 1.0, -3.0
        bias = torch.tensor([[0.0, FLOOR], [0.0, -1.0]])
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=bias, scale=0.5
        )
        found = [out, lse]
        found += torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, False, attn_mask=bias, scale=0.5
        )
    except (AttributeError, RuntimeError, TypeError):
        return False
    scores = 0.5 * q @ k.transpose(-1, -2) + bias
    weights = scores.softmax(-1)
    mixed = weights @ v
    grad_scores = weights * (grad @ v.transpose(-1, -2) - (grad * mixed).sum(-1, keepdim=True)) * 0.5
    expected = [
        mixed,
        scores.logsumexp(-1),
        grad_scores @ k,
        grad_scores.transpose(-1, -2) @ q,
        weights.transpose(-1, -2) @ grad,
    ]
    return all(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
