"""Attentions that are or are not full attention, for configs to name as their `_target_`; all answer their probe alike.

None has a parameter of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ablab.model.attention.full import FullAttention
from ablab.model.spec import LayerSpec


class Renamed(FullAttention):
    """The same."""


class OtherOrder(FullAttention):
    """The same, summed over heads one by one and over keys from the last one on."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        each = zip(q.unbind(1), k.flip(2).unbind(1), v.flip(2).unbind(1), strict=True)
        # Laid out as PyTorch's own, since dropout draws in the order of memory.
        return torch.stack([self._of_head(*head) for head in each], 2).transpose(1, 2)

    def _of_head(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        hidden = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).triu(1).flip(1)
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
        return scores.masked_fill(hidden, -math.inf).softmax(-1) @ v


class NormedQueries(FullAttention):
    """With a norm of queries and keys."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        size = q.shape[-1:]
        q, k = torch.nn.functional.rms_norm(q, size), torch.nn.functional.rms_norm(k, size)
        return super().attend(q, k, v, key_padding_mask)


class DoubledScores(FullAttention):
    """With scores twice as large."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().attend(2 * q, k, v, key_padding_mask)


class OtherInTraining(FullAttention):
    """With larger scores in training alone."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().attend(1.001 * q if self.training else q, k, v, key_padding_mask)


class OtherGradient(FullAttention):
    """With the values of full attention, in training too, and no gradient of keys."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().attend(q, k.detach(), v, key_padding_mask)


class DrawingReLU(nn.Module):
    """ReLU, which draws a number in vain."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1, device=x.device)
        return x.relu()
