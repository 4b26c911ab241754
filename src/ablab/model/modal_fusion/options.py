"""The options without tokens of their own: which layers keep the modalities apart, and which bring them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ablab.model.attention.recurrence import Recurrence
from ablab.model.block import Block
from ablab.model.context import LayerContext
from ablab.model.modal_fusion.base import Layout, ModalFusion, Towers, View, Weights
from ablab.model.spec import ClashError, LayerSpec


class EarlyFusion(ModalFusion):
    """Every token sees the tokens of all modalities, from the first layer on (ViLT: Kim et al. 2021, "single-stream").

    With one modality this is the plain transformer.
    """

    needs_several = False
    each_block_once = True

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        return self.together(blocks, x, context)

    def reach(self, layer: int) -> list[list[float]]:
        return self._everybody()


class LateFusion(Towers):
    """Modalities stay apart in every layer; what the towers say in the end is pooled and combined by the readout.

    The usual baseline, as in Nagrani et al. 2021 ("late fusion" among the places where to fuse). The readout, which all
    fusions share, mixes the modalities by one hidden layer (`ablab.model.multimodal.MixOfModalities`).
    """

    def is_apart(self, layer: int) -> bool:
        return True


class HybridFusion(Towers):
    """A tower for each modality up to a layer, and one for all of them from there on.

    "Mid fusion" among the places where to fuse of Nagrani et al. 2021.

    Args:
        joint_from: the first layer in which the modalities are together, from 1 to the model's last; None: after
            half of the layers.
        weights: of the towers; see `Towers`.

    Raises:
        ValueError: the layers below or above would be none.
    """

    def __init__(
        self, spec: LayerSpec, *, layout: Layout, joint_from: int | None = None, weights: Weights = "own"
    ) -> None:
        super().__init__(spec, layout=layout, weights=weights)
        if spec.n_layers < 2:
            raise ValueError("hybrid fusion needs layers below and above: model.n_layers must be at least 2")
        self.joint_from = (spec.n_layers + 1) // 2 if joint_from is None else joint_from
        if not 1 <= self.joint_from < spec.n_layers:
            raise ValueError(
                f"modal_fusion.joint_from={joint_from} must lie in 1..{spec.n_layers - 1}; "
                "modal_fusion=early is together from the start, modal_fusion=late never is"
            )

    def is_apart(self, layer: int) -> bool:
        return layer < self.joint_from


class CrossFusion(ModalFusion):
    """Layers in which each modality sees itself alone take turns with layers in which it sees the others alone.

    The co-attentional layers of ViLBERT (Lu et al. 2019), in which queries of one modality meet keys and values of the
    other, with one deviation that is the claim under test: the projections of queries, keys, values and outputs, and
    the feed-forward part, are the same for all modalities. Parameters are those of early fusion.

    The others are looked at by the attention of the model's own axis, over the whole stream with the modality's own
    keys masked. That takes as many passes of the attention core as there are modalities, and one of everything else.

    Args:
        across_first: begin with a layer that looks at the others.

    Raises:
        ValueError: there are not two layers to take turns.
        ClashError: the attention keeps a state and no keys, so that a token that is hidden cannot ask, either.
    """

    def __init__(self, spec: LayerSpec, *, layout: Layout, across_first: bool = False) -> None:
        super().__init__(spec, layout=layout)
        if spec.n_layers < 2:
            raise ValueError("layers within and across modalities take turns: model.n_layers must be at least 2")
        self.across_first = across_first

    def blocks(self, layer: int, make: Callable[[], Block]) -> nn.Module:
        block = make()
        if isinstance(block.attention.core, Recurrence):
            raise ClashError("modal_fusion", "attention", "it keeps a state, and no keys for others to look at")
        return block

    def is_across(self, layer: int) -> bool:
        """Whether that layer looks at the other modalities."""
        return (layer % 2 == 0) == self.across_first

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        if not self.is_across(layer):
            return self.apart(blocks, x, context)
        assert isinstance(blocks, Block)
        mask = context.key_padding_mask
        hidden = x.new_zeros(x.shape[:2], dtype=torch.bool) if mask is None else mask
        attention = blocks.attention
        mixed = blocks.mix(x, lambda y: attention.attend_each(y, context.rotate, self._others(hidden)))
        return blocks.transform(mixed, context)

    def _others(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield where each modality is, and what is hidden from it: its own tokens, and what is for everybody."""
        for name, place in self.layout.places.items():
            self.view = View(self.layout.places, [name])  # of the attention that comes next
            own = hidden.clone()
            own[:, place] = True
            yield place, own

    def reach(self, layer: int) -> list[list[float]]:
        own = self._itself()
        return [[1.0 - seen for seen in row] for row in own] if self.is_across(layer) else own
