"""Bottleneck fusion: the modalities exchange what fits into a few tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.context import LayerContext
from ablab.model.draws import branch
from ablab.model.modal_fusion.base import Layout, Towers, View, Weights, block_of, masked
from ablab.model.spec import LayerSpec, require_at_least

BOTTLENECK = "bottleneck"  # what the tokens of the exchange are called


class BottleneckFusion(Towers):
    """A tower for each modality; from a layer on, each also sees, and changes, a few shared tokens.

    Nagrani et al. 2021, "Attention Bottlenecks for Multimodal Fusion", the section of that name: every modality updates
    the shared tokens by itself, and the next layer is given their mean. It deviates in that a sample's missing
    modalities do not count in that mean.

    Args:
        tokens: shared ones.
        exchange_from: the first layer that exchanges; None: the second half of the layers, and at least two.
        weights: of the towers; see `Towers`.

    Raises:
        ValueError: no token, or fewer than two layers that exchange: what one wrote the next one reads.
    """

    def __init__(
        self,
        spec: LayerSpec,
        *,
        layout: Layout,
        tokens: int = 4,
        exchange_from: int | None = None,
        weights: Weights = "own",
    ) -> None:
        super().__init__(spec, layout=layout, weights=weights)
        require_at_least(1, "modal_fusion.tokens", tokens)
        last = spec.n_layers - 2
        if last < 0:
            raise ValueError("what one layer writes the next one reads: model.n_layers must be at least 2")
        self.exchange_from = min(spec.n_layers // 2, last) if exchange_from is None else exchange_from
        if not 0 <= self.exchange_from <= last:
            raise ValueError(
                f"modal_fusion.exchange_from={exchange_from} must lie in 0..{last}: what one layer writes into the "
                "shared tokens the next one reads"
            )
        self.extra = tokens
        self.shared = nn.Embedding(tokens, spec.d_model)

    def is_apart(self, layer: int) -> bool:
        return True

    def enter(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        shared = self.shared.weight.expand(len(x), -1, -1)
        if mask is not None:
            mask = torch.cat([mask, mask.new_zeros(len(x), self.extra)], 1)
        return torch.cat([x, shared], 1), mask

    def leave(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return x[:, : -self.extra], None if mask is None else mask[:, : -self.extra]

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        mask, exchange = context.key_padding_mask, slice(-self.extra, None)
        own, shared = x[:, : -self.extra], x[:, exchange]
        if layer < self.exchange_from:
            return torch.cat([self.apart(blocks, own, context), shared], 1)
        parts, updates, there = [], [], []
        for name, place in self.layout.places.items():
            length = self.layout.lengths[name]
            self.view = View(
                {name: slice(0, length), BOTTLENECK: slice(length, length + self.extra)}, [name, BOTTLENECK]
            )
            with branch(self, name):  # one block may serve them all
                out = block_of(blocks, name)(torch.cat([own[:, place], shared], 1), masked(context, place, exchange))
            parts.append(out[:, :length])
            updates.append(out[:, length:])
            there.append(x.new_ones(len(x)) if mask is None else (~mask[:, place]).any(1).to(x.dtype))
        shares = torch.stack(there, -1)  # (B, modalities)
        shares = shares / shares.sum(-1, keepdim=True).clamp(min=1)
        mean = torch.einsum("mbt...,bm->bt...", torch.stack(updates), shares)
        return torch.cat([*parts, mean], 1)

    def reach(self, layer: int) -> list[list[float]]:
        exchanging = float(layer >= self.exchange_from)
        return [*self._itself(), [exchanging * self.extra] * len(self.layout.names)]
