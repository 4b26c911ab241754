"""How far heads look: learned spans, which are the half of `ablab.model.attention.dynamic` that adapts in size."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from ablab.model.spec import LayerSpec


class AdaptiveSpan(nn.Module):
    """Learned spans: how far each head looks (Sukhbaatar et al. 2019, Adaptive Attention Span in Transformers).

    z = widest * sigmoid(b + u . q), in tokens (section 2.2, "Dynamic attention span").

    A key at distance x gets the weight clamp((ramp + z - x) / ramp, 0, 1) beside its score (equation 3).

    Deviations. A span that does not depend on the query, u = 0, is a sigmoid too, where the paper clamps the parameter:
    at its ends a clamped one gets no gradient. The input is the query, where the paper takes the layer's input.

    Args:
        widest: the largest span, in tokens.
        ramp: width of the soft edge, in tokens.
        initial: the span to start with, in tokens; None for half of the widest.
        per_query: whether each query has a span of its own.
        penalty: added to the loss for each token of the heads' mean span, so that spans grow only where that helps
            (section 2.1).

    Raises:
        ValueError: a number is out of its range.
    """

    direction: nn.Parameter | None
    parameter_groups: ClassVar = {"direction": "kernels"}  # a vector for each head, of its own queries: no matrix

    def __init__(
        self, spec: LayerSpec, *, widest: int, ramp: float, initial: float | None, per_query: bool, penalty: float
    ) -> None:
        super().__init__()
        initial = widest / 2 if initial is None else initial
        if not 0 < initial < widest:
            raise ValueError(f"initial_span must lie between 0 and the window of {widest}, got {initial}")
        if ramp <= 0:
            raise ValueError(f"ramp must be above 0, got {ramp}")
        if penalty < 0:
            raise ValueError(f"span_penalty must be at least 0, got {penalty}")
        self.widest, self.ramp, self.penalty_per_token = widest, ramp, penalty
        self.offset = nn.Parameter(torch.full((spec.n_heads,), math.log(initial / (widest - initial))))
        self.direction = nn.Parameter(torch.zeros(spec.n_heads, spec.head_size)) if per_query else None
        self.last: Tensor | None = None  # of the last forward pass in training, for the penalty

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """All heads start with the same span."""

    def forward(self, q: Tensor) -> Tensor:
        """The spans of queries q (B, H, T, D), in tokens: (H,), or (B, H, T) with `per_query`."""
        offset = self.offset.to(torch.promote_types(q.dtype, torch.float32))
        if self.direction is None:
            spans = self.widest * offset.sigmoid()
        else:
            along = torch.einsum("bhtd,hd->bht", q.to(offset.dtype), self.direction.to(offset.dtype))
            spans = self.widest * (offset[:, None] + along).sigmoid()
        if self.training:
            self.last = spans
        return spans

    def penalty(self) -> Tensor:
        """The penalty of the spans of the last forward pass."""
        if self.last is None:
            return self.offset.new_zeros(())
        penalty = self.penalty_per_token * self.last.mean()
        self.last = None  # lets go of the graph
        return penalty

    def weight(self, spans: Tensor, distance: Tensor) -> Tensor:
        """The weight of keys at `distance` (S, T) beside their scores, for spans (..., S or 1) -> (..., S, T)."""
        return ((self.ramp + spans.unsqueeze(-1) - distance) / self.ramp).clamp(0, 1)

    def reach(self, spans: Tensor) -> Tensor:
        """The least distance, in whole tokens, at which a key has no weight."""
        return (self.ramp + spans.detach()).ceil().nan_to_num(nan=1.0)  # of a diverged model, any distance does


def own_if_alone(weights: Tensor, own: Tensor) -> Tensor:
    """Weights (..., S, T) without those of a query's own key, which counts where nothing else does."""
    others = weights.masked_fill(own, 0)
    return torch.where(others.any(-1, keepdim=True), others, own.to(others.dtype))
