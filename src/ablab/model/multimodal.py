"""The transformer of a task with several modalities.

Encoders make tokens of the model's width of each, which lie one after the other in one stream; the modal fusion decides
where they meet, and the readout makes one answer of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ablab.model.block import Block
from ablab.model.context import LayerContext
from ablab.model.modal_fusion.base import Layout, ModalFusion, block_of, blocks_of
from ablab.model.protocols import NeedsIds, offering
from ablab.model.spec import ClashError, LayerSpec
from ablab.model.transformer import MeanOfTokens, Transformer


class Encoder(Protocol):
    """Makes tokens of one modality; a module."""

    length: int  # tokens

    def __call__(self, x: Tensor) -> Tensor: ...


EncoderFactory = Callable[[int], nn.Module]  # d_model -> an encoder


class MultimodalTransformer(Transformer):
    """A transformer over the tokens of several modalities, which gives one answer from all of them.

    Args:
        transformer: all that it has in common with a transformer over tokens. It is `pooled`, has `n_outputs`, and
            takes no heed of `vocab_size`, `max_length` and `trained_length`.
        encoders: by modality, in the order of the stream: what makes an `Encoder` of each.
        modal_fusion: makes what decides where modalities meet; see `ablab.model.modal_fusion`.

    Raises:
        ValueError: it is not asked for one answer, or as `Transformer` does.
    """

    def __init__(
        self,
        transformer: partial[Transformer],
        *,
        encoders: Mapping[str, EncoderFactory],
        modal_fusion: Callable[..., ModalFusion],
    ) -> None:
        settings = transformer.keywords
        if not (settings.get("pooled") and settings.get("n_outputs")):
            raise ValueError("several modalities are asked for one answer together: pooled, with n_outputs")
        self._encoders, self._make_fusion = encoders, modal_fusion
        super().__init__(**{**settings, "trained_length": None})
        if any(True for _ in offering(self, NeedsIds)):
            raise ClashError("feed_forward", "task", "it goes by tokens, and not all of the task's modalities have any")
        if not self.each_block_once and next(self.layers())[1].attention_residual.shares:
            raise ClashError(
                "residual", "modal_fusion", "each modality passes the layers by itself, with its own values"
            )

    def _embed(self, spec: LayerSpec) -> None:
        embedding = ModalEmbedding(spec.d_model, encoders=self._encoders)
        self.embedding = embedding
        self.layout = Layout(embedding.lengths)
        self.modal_fusion = self._make_fusion(replace(spec, max_length=self.layout.total), layout=self.layout)
        self.max_length = self.modal_fusion.longest

    def _make_layer(self, layer: int, make: Callable[[], Block]) -> nn.Module:
        return self.modal_fusion.blocks(layer, make)

    def _make_readout(self, pooled: bool, d_model: int) -> nn.Module | None:
        return MixOfModalities(self.layout, d_model)

    @property
    def modalities(self) -> Sequence[str]:  # type: ignore[override]
        return self.layout.names

    @property
    def each_block_once(self) -> bool:  # type: ignore[override]
        return self.modal_fusion.each_block_once

    def enter(
        self, inputs: Tensor | Mapping[str, Tensor], key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self.modal_fusion.enter(*super().enter(inputs, key_padding_mask))

    def call_layer(self, layer: int, x: Tensor, context: LayerContext) -> Tensor:
        return self.modal_fusion.layer(layer, self.blocks[layer], x, context)

    def hidden(self, streams: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        x, mask = self.modal_fusion.leave(self.norm(self.layer_fusion(self.read(streams), mask)), mask)
        assert self.readout is not None
        return cast(Tensor, self.readout(x, mask))

    def mask_of(self, inputs: Tensor | Mapping[str, Tensor], key_padding_mask: Tensor | None = None) -> Tensor | None:
        assert not isinstance(inputs, Tensor)
        padding = inputs["padding"]
        if not padding.is_meta and bool(padding.all(1).any()):
            raise ValueError("a sample without any modality: there is nothing to answer from")
        return padding

    def layers(self) -> Iterator[tuple[int, Block]]:
        for layer, blocks in enumerate(self.blocks):
            for block in blocks_of(blocks):
                yield layer, block

    def longest_input(self) -> tuple[slice, Block]:
        name = max(self.layout.names, key=lambda name: self.layout.lengths[name])
        return self.layout.places[name], block_of(self.blocks[0], name)


class MixOfModalities(nn.Module):
    """The mean over each modality's tokens, and one hidden layer over those of all modalities together.

    h = gelu(b + (M / m) sum of W_i p_i over the m of M modalities that the sample has). It is the same for every modal
    fusion, so that late fusion, whose towers meet here alone, is not held back by a linear readout.
    """

    def __init__(self, layout: Layout, d_model: int) -> None:
        super().__init__()
        self.layout = layout
        self.pool = MeanOfTokens()
        self.weigh = nn.ModuleDict({name: nn.Linear(d_model, d_model, bias=False) for name in layout.names})
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """x (B, T, d_model), the mask (B, T) true where no token is -> (B, 1, d_model)."""
        total, count = x.new_zeros(len(x), 1, x.shape[-1]), x.new_zeros(len(x), 1, 1)
        for name, place in self.layout.places.items():
            mask = None if key_padding_mask is None else key_padding_mask[:, place]
            there = x.new_ones(len(x)) if mask is None else (~mask).any(1).to(x.dtype)
            # The mean of a missing modality is zero, and so is what it adds.
            total = total + self.weigh[name](self.pool(x[:, place], mask))
            count = count + there[:, None, None]
        return gelu(total * (len(self.layout.names) / count.clamp(min=1)) + self.bias)


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
