"""All modalities of an input as one stream of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


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
