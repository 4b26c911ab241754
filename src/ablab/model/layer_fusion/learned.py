"""The options with learned weights: the same for every input, computed from it, or one sum for every block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ablab.model.attention.block_cache import wide
from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.kernel import working_dtype
from ablab.model.layer_fusion.base import LayerFusion, require_several
from ablab.model.spec import LayerSpec


class StaticFusion(LayerFusion):
    """gamma sum_i softmax(w)_i x_i over the layers' outputs x_i, with one learned number w_i per layer.

    The weights are the same for every input (Peters et al. 2018, "ELMo", equation 1). Starts as the mean of the layers
    (w = 0), as the source does. Deviation: the source also weighs the embedding.

    Args:
        gamma: whether the sum has a learned scale, which starts at 1.

    Raises:
        ValueError: there is one layer.
    """

    def __init__(self, spec: LayerSpec, *, gamma: bool) -> None:
        super().__init__(spec)
        require_several(spec)
        self.logits = nn.Parameter(torch.zeros(spec.n_layers))
        self.gamma = nn.Parameter(torch.ones(())) if gamma else None

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        return self.logits.softmax(-1)

    def forward(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None = None) -> Tensor:
        fused = super().forward(streams, key_padding_mask)
        return fused if self.gamma is None else self.gamma * fused

    def mechanism(self) -> dict[str, float]:
        return {} if self.gamma is None else {"gamma": self.gamma.item()}


class AdaptiveFusion(LayerFusion):
    """sum_i softmax(A s)_i x_i over the layers' outputs x_i, with A (n_layers, d_model) and a bias learned.

    The weights are computed from the input, which the articles call adaptive layer fusion. s is the last layer's output
    after a norm without parameters, either each token's own or summed up over the sequence. In a causal model a
    sequence is summed up by the mean over the tokens up to and including the own one, since a mean over all of them
    would tell of the future; where it is not causal, by the mean over all tokens.

    The articles do not say how the weights come from the input; this is the simplest way in which they can, a
    softmax of a linear map. A starts small, so that training starts next to the mean of the layers.

    Args:
        per: "token" or "sequence".

    Raises:
        ValueError: another word for `per`, or there is one layer.
    """

    adapts = True

    def __init__(self, spec: LayerSpec, *, per: Literal["token", "sequence"]) -> None:
        super().__init__(spec)
        if per not in ("token", "sequence"):
            raise ValueError(f"per={per}: must be token or sequence")
        require_several(spec)
        self.per = per
        self.gate = nn.Linear(spec.d_model, spec.n_layers)

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        last = streams[-1]
        summary = nn.functional.layer_norm(last, last.shape[-1:])
        if self.per == "sequence":
            summary = self._over_sequence(summary, key_padding_mask)
        weights: Tensor = self.gate(summary).softmax(-1)
        return weights

    def new_cache(self, batch: int) -> LayerCache | None:
        return SummaryCache(batch, like=self.gate.weight) if self.per == "sequence" and self.causal else None

    def cache_numbers(self) -> int:
        return wide(self.gate.weight) * self.gate.in_features if self.per == "sequence" and self.causal else 0

    def extend(self, streams: Sequence[Tensor], step: Step, cache: LayerCache | None) -> Tensor:
        if cache is None:
            return super().extend(streams, step, cache)
        summary = nn.functional.layer_norm(streams[-1], streams[-1].shape[-1:])
        mean = cast(SummaryCache, cache).extend(summary, step)
        return self.sum(streams, self.gate(mean).softmax(-1))

    def _over_sequence(self, x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        present = x.new_ones(x.shape[:2]) if key_padding_mask is None else (~key_padding_mask).to(x.dtype)
        present = present.unsqueeze(-1)
        # Where there is nothing, what lies there may be anything, NaN included.
        x = x if key_padding_mask is None else x.masked_fill(key_padding_mask.unsqueeze(-1), 0)
        if self.causal:
            return x.cumsum(1) / present.cumsum(1).clamp(min=1)
        return x.sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)


class SummaryCache(LayerCache):
    """The sum over the tokens of a sequence of what it is summed up by, (B, 1, d_model), in single precision at least.

    Args:
        like: (..., d_model), on the device.
    """

    def __init__(self, batch: int, *, like: Tensor) -> None:
        self.total = torch.zeros(batch, 1, like.shape[-1], dtype=working_dtype(like), device=like.device)

    def extend(self, x: Tensor, step: Step) -> Tensor:
        """The mean up to each of the new tokens, of x (B, S, d_model)."""
        there = x if step.there is None else x.masked_fill(~step.there.unsqueeze(-1), 0)
        sums = self.total + there.to(self.total.dtype).cumsum(1)
        self.total.copy_(sums[:, -1:])
        return (sums / (step.positions + 1).unsqueeze(-1)).to(x.dtype)


class DenseFusion(LayerFusion):
    """After block i (from 1; 0 is the embedding) the stream becomes sum_j a_ij x_j over the outputs x_0 ... x_i.

    Every block sees a weighted sum of all that came before (Pagliardini et al. 2024, "DenseFormer"). One learned number
    per pair (section 3, "Depth Weighted Average"), of any sign and sum. It starts as the identity, a_ii = 1 and the
    others 0, so that training starts at the plain transformer. The last sum is what the head sees.

    Args:
        dilation: j runs over i, i - dilation, i - 2 dilation, ... (section 3, "Dilated DenseFormer"), at least 1.
        period: there is a sum after every `period`-th block and after the last one, at least 1. Deviation: the source
            has none after the last where the period does not divide the number of layers.

    Raises:
        ValueError: a number is below 1.
    """

    starts_as = "last"

    def __init__(self, spec: LayerSpec, *, dilation: int, period: int) -> None:
        super().__init__(spec)
        for name, value in (("dilation", dilation), ("period", period)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.dilation = dilation
        self.weights = nn.ParameterDict()
        for depth in range(1, spec.n_layers + 1):
            if depth % period == 0 or depth == spec.n_layers:
                start = torch.zeros(depth // dilation + 1)
                start[0] = 1
                self.weights[str(depth)] = nn.Parameter(start)

    def feed(self, streams: Sequence[Tensor]) -> Tensor:
        depth = len(streams) - 1
        if str(depth) not in self.weights:
            return streams[-1]
        weights = self.weights[str(depth)]
        mixed: Tensor = weights[0] * streams[-1]
        for step in range(1, len(weights)):
            mixed = mixed + weights[step] * streams[depth - step * self.dilation]
        return mixed

    def forward(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None = None) -> Tensor:
        return self.feed(streams)

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        """Those of the last sum, without the embedding's."""
        weights = self.weights[str(self.n_layers)]
        every: Tensor = weights.new_zeros(self.n_layers + 1)
        every[self.n_layers - self.dilation * torch.arange(len(weights), device=weights.device)] = weights
        return every[1:]

    def mechanism(self) -> dict[str, float]:
        """The distance of the sums from the plain transformer's: the mean of |a_ij| over j < i, and the largest."""
        others = torch.cat([weights[1:] for weights in self.weights.values()]).abs()
        if not others.numel():
            return {}
        return {"skip_weight": others.mean().item(), "skip_weight_max": others.max().item()}
