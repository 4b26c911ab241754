"""What has features: patches of an image, patches of a spectrogram."""

from __future__ import annotations

from torch import Tensor, nn


class FeatureEncoder(nn.Linear):
    """One projection for all tokens of the modality: (B, length, features) -> (B, length, d_model).

    For patches of an image that is the patch embedding of the vision transformer (Dosovitskiy et al. 2021, equation 1),
    for those of a spectrogram that of the audio spectrogram transformer (Gong et al. 2021). Features come
    normalised; what that was done by is the task's, and lies in the checkpoint.
    """

    def __init__(self, d_model: int, *, length: int, features: int) -> None:
        super().__init__(features, d_model)
        self.length = length

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.to(self.weight.dtype))
