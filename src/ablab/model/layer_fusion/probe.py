"""The axis `layer_fusion` at work: the weights of the layers, and whether they depend on what comes in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ablab.model.layer_fusion.base import LayerFusion
from ablab.model.mechanism import Watcher, drawn, projected
from ablab.model.ranks import sum_over_ranks

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

ROWS = 64  # tokens that a layer fusion is asked about


class LayerFusionWatcher(Watcher):
    """Sums weights, their squares and their entropies over everything that passes."""

    def __init__(self, fusion: LayerFusion) -> None:
        super().__init__("layer_fusion", None, fusion)
        self.fusion = fusion
        self._sums: Tensor | None = None  # of each layer's weight, then of its square, the entropy, tokens

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        streams = args[0] if args else kwargs["streams"]
        mask = args[1] if len(args) > 1 else kwargs.get("key_padding_mask")
        weights = self.fusion.weigh(streams, mask).double().expand(*output.shape[:2], -1)
        rows = weights.flatten(0, 1) if mask is None else weights[~mask]
        distribution = bool((rows >= 0).all()) and torch.allclose(rows.sum(-1), rows.new_ones(len(rows)), atol=1e-4)
        entropy = torch.special.entr(rows).sum() if distribution else rows.new_tensor(float("nan"))
        count = rows.new_tensor([len(rows)])
        sums = torch.cat([rows.sum(0), rows.square().sum(0), entropy.view(1), count])
        self._sums = sums if self._sums is None else self._sums + sums

    def metrics(self) -> dict[str, float]:
        """`weight/layer_<i>` (mean over tokens), `entropy` (nats, mean over tokens) and `weight_variation`.

        The last is the standard deviation of a layer's weight over the tokens, mean over layers, and is there only
        where the weights are said to depend on the input. Every process of a distributed run must call it.
        """
        metrics = super().metrics()
        n = self.fusion.n_layers
        device = next(self.fusion.parameters(), torch.empty(0)).device
        sums = torch.zeros(2 * n + 2, dtype=torch.float64, device=device) if self._sums is None else self._sums.clone()
        sums = sum_over_ranks(sums).cpu()
        tokens = sums[-1]
        if not tokens:
            return metrics
        mean, square = sums[:n] / tokens, sums[n : 2 * n] / tokens
        metrics |= {f"weight/layer_{layer}": value for layer, value in enumerate(mean.tolist())}
        entropy = (sums[-2] / tokens).item()
        if entropy == entropy:  # weights of any sign have none
            metrics["entropy"] = entropy
        if self.fusion.adapts:
            metrics["weight_variation"] = (square - mean.square()).clamp(min=0).sqrt().mean().item()
        return metrics


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """The layer fusion, where it has weights."""
    if model.layer_fusion.weighs:
        yield LayerFusionWatcher(model.layer_fusion)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """Projections of what the blocks are fed, and of what comes out."""
    like = model.head.weight
    shape = 1, min(ROWS, model.max_length), like.shape[1]
    streams = [drawn(f"stream {i}", shape, like) for i in range(len(model.blocks) + 1)]
    depths = range(1, len(streams))
    fed = [number for depth in depths for number in projected(model.layer_fusion.feed(streams[:depth]))]
    return {"": [*fed, *projected(model.layer_fusion(streams))]}
