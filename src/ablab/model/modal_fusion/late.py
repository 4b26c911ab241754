"""Late fusion: a tower for each modality."""

from __future__ import annotations

from ablab.model.modal_fusion.base import Towers


class LateFusion(Towers):
    """Modalities stay apart in every layer; what the towers say in the end is pooled and combined by the readout.

    The usual baseline, as in Nagrani et al. 2021 ("late fusion" among the places where to fuse). The readout, which all
    fusions share, mixes the modalities by one hidden layer (`ablab.model.readout`).
    """

    def is_apart(self, layer: int) -> bool:
        return True
