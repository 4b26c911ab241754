"""Fusions of modalities that meet where they should not, or miss each other."""

from __future__ import annotations

from torch import Tensor, nn

from ablab.model.context import LayerContext
from ablab.model.modal_fusion.base import Layout, ModalFusion, block_of, masked
from ablab.model.modal_fusion.options import EarlyFusion, LateFusion
from ablab.model.spec import LayerSpec


class MissingOnesJoin(EarlyFusion):
    """The mask of missing modalities is not handed on."""

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        return super().layer(layer, blocks, x, LayerContext(rotate=context.rotate, shared=context.shared))


class MeetsAgainstItsWord(LateFusion):
    """Says that modalities stay apart, and lets the first see all of them."""

    def __init__(self, spec: LayerSpec, *, layout: Layout) -> None:
        super().__init__(spec, layout=layout, weights="shared")

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        return self.together(blocks, x, context)


class NeverMeets(EarlyFusion):
    """Says that everybody sees everybody, and each modality sees itself alone: late fusion under another name."""

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        return self.apart(blocks, x, context)


class GateOfTheBatch(EarlyFusion):
    """What comes out is weighed by a gate of the mean over the batch."""

    def __init__(self, spec: LayerSpec, *, layout: Layout) -> None:
        super().__init__(spec, layout=layout)
        self.gate = nn.Linear(spec.d_model, 1)

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        weight: Tensor = self.gate(x.mean((0, 1))).sigmoid()
        return super().layer(layer, blocks, x, context) * weight


class GateNeverUsed(EarlyFusion):
    """A gate for each modality is made and left aside."""

    def __init__(self, spec: LayerSpec, *, layout: Layout) -> None:
        super().__init__(spec, layout=layout)
        self.gates = nn.ModuleDict({name: nn.Linear(spec.d_model, 1) for name in layout.names})


class MaskOfTheWrongPlace(LateFusion):
    """Each modality is given the mask of the one before it."""

    def __init__(self, spec: LayerSpec, *, layout: Layout) -> None:
        super().__init__(spec, layout=layout, weights="shared")

    def apart(self, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        mask = context.key_padding_mask
        if mask is not None:
            there = [mask[:, place].all(1) for place in self.layout.places.values()]
            mask = mask.clone()
            for missing, place in zip(there[-1:] + there[:-1], self.layout.places.values(), strict=True):
                mask[:, place] = missing[:, None]
        return super().apart(blocks, x, LayerContext(rotate=context.rotate, key_padding_mask=mask))


class EarlyAgain(ModalFusion):
    """One stream of all modalities, as the default."""

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        return self.together(block_of(blocks, ""), x, masked(context, slice(None)))

    def reach(self, layer: int) -> list[list[float]]:
        return self._everybody()
