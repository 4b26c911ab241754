"""Hybrid fusion: apart below, together above."""

from __future__ import annotations

from ablab.model.modal_fusion.base import Towers, Weights
from ablab.model.spec import LayerSpec


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

    def __init__(self, spec: LayerSpec, *, joint_from: int | None = None, weights: Weights = "own") -> None:
        super().__init__(spec, weights=weights)
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
