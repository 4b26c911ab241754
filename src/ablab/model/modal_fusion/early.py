"""Early fusion: one sequence of all modalities."""

from __future__ import annotations

from torch import Tensor, nn

from ablab.model.attention.layer import Rotate
from ablab.model.modal_fusion.base import ModalFusion


class EarlyFusion(ModalFusion):
    """Every token sees the tokens of all modalities, from the first layer on (ViLT: Kim et al. 2021, "single-stream").

    A task of one modality is the plain transformer.
    """

    needs_several = False
    each_block_once = True

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, rotate: Rotate, mask: Tensor | None) -> Tensor:
        return self.together(blocks, x, rotate, mask)

    def reach(self, layer: int) -> list[list[float]]:
        return self._everybody()
