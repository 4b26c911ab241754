"""How each modality becomes tokens of the model's width, and all of them one stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


class TextEncoder(nn.Embedding):
    """One trained vector for each token id: (B, length) int64 -> (B, length, d_model)."""

    def __init__(self, d_model: int, *, length: int, vocab_size: int) -> None:
        super().__init__(vocab_size, d_model)
        self.length = length

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids)


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


class Encoder(Protocol):
    """Makes tokens of one modality; a module."""

    length: int  # tokens

    def __call__(self, x: Tensor) -> Tensor: ...


EncoderFactory = Callable[[int], nn.Module]  # d_model -> an encoder


class ModalEmbedding(nn.Module):
    """Each modality by its own encoder, and with a trained vector that says which modality it is.

    Args:
        encoders: by modality, in the order of the stream.
    """

    def __init__(self, d_model: int, *, encoders: Mapping[str, EncoderFactory]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: make(d_model) for name, make in encoders.items()})
        self.modality = nn.Embedding(len(encoders), d_model)

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of each modality."""
        return {name: int(encoder.length) for name, encoder in self.encoders.items()}  # type: ignore[arg-type]

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The modalities by name -> (B, T, d_model)."""
        tokens = [encoder(inputs[name]) for name, encoder in self.encoders.items()]
        return torch.cat([x + which for x, which in zip(tokens, self.modality.weight, strict=True)], 1)
