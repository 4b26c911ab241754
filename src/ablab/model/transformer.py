"""The transformer: embedding, position, blocks, layer fusion, norm and head.

It gets its components as factories and never asks which options they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ablab.model.block import Block, Factory, Norm, make_norm
from ablab.model.encoders.embedding import EncoderFactory, ModalEmbedding
from ablab.model.initialisation import initialise, keyed_generator
from ablab.model.layer_fusion.base import LastLayer, LayerFusion
from ablab.model.modal_fusion.base import ModalFusion, blocks_of
from ablab.model.modal_fusion.early import EarlyFusion
from ablab.model.modal_fusion.layout import Layout
from ablab.model.position.base import Position
from ablab.model.readout import MeanOfTokens, MixOfModalities
from ablab.model.spec import ClashError, LayerSpec, require_at_least


class Transformer(nn.Module):
    """A transformer over tokens, or over the tokens of several modalities.

    Args:
        vocab_size: tokens are 0..vocab_size-1.
        max_length: longest sequence, in tokens.
        seed: of the parameters. Building the model neither reads nor moves the global random state.
        d_model: width of the residual stream.
        n_heads: attention heads per layer; must divide d_model.
        n_kv_heads: heads of keys and values, each shared by n_heads / n_kv_heads neighbouring queries; must divide
            n_heads; None means as many.
        n_layers: blocks.
        d_ff: hidden units of the feed-forward part; None means 4 d_model.
        dropout: probability, on the embedding and on what each half of a block adds to the stream.
        tie_embeddings: the head shares its weights with the embedding (Press and Wolf 2017), where it gives tokens.
        bias: linear layers and norms have biases; the head never has one.
        norm: "layer" or "rms"; see `ablab.model.block.make_norm`.
        norm_position: "pre" normalises what each part of a block reads, and what the head reads; "post" the stream
            after each part, and then nothing before the head.
        causal: a position sees itself and earlier ones only.
        padding: the token that stands for no token, which nobody attends to; None: there is none.
        pooled: one answer for the whole sequence, read from the mean over its tokens, not one at every position.
        n_outputs: classes to choose from, by a head of its own; None: tokens.
        attention: makes a layer's attention core, or the whole of its attention; see `ablab.model.attention`.
        activation: makes a layer's activation; see `ablab.model.activation`.
        position: makes the position, one for all layers; see `ablab.model.position`.
        layer_fusion: makes what joins the layers' outputs for the head; see `ablab.model.layer_fusion`.
        modal_fusion: makes what decides where modalities meet; see `ablab.model.modal_fusion`.
        encoders: of an input of several modalities, by name: what makes tokens of each, `ablab.model.encoders`. Such a
            model is `pooled`, has `n_outputs`, and takes no heed of `vocab_size` and `max_length`. None: tokens alone.

    Raises:
        ValueError: a size or an option is out of its range, or options do not work together (`ClashError`).
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        max_length: int,
        seed: int,
        d_model: int,
        n_heads: int,
        n_layers: int,
        n_kv_heads: int | None = None,
        d_ff: int | None = None,
        dropout: float = 0.0,
        tie_embeddings: bool = True,
        bias: bool = True,
        norm: Norm = "layer",
        norm_position: Literal["pre", "post"] = "pre",
        causal: bool = True,
        padding: int | None = None,
        pooled: bool = False,
        n_outputs: int | None = None,
        attention: Factory,
        activation: Factory,
        position: Callable[[LayerSpec], Position],
        layer_fusion: Callable[[LayerSpec], LayerFusion] = LastLayer,
        modal_fusion: Callable[[LayerSpec], ModalFusion] = EarlyFusion,
        encoders: Mapping[str, EncoderFactory] | None = None,
    ) -> None:
        super().__init__()
        require_at_least(1, "vocab_size", vocab_size)
        require_at_least(1, "model.n_layers", n_layers)
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {dropout}")
        if norm_position not in ("pre", "post"):
            raise ValueError(f"model.norm_position={norm_position}: must be pre or post")
        if encoders is not None and not (pooled and n_outputs):
            raise ValueError("several modalities are asked for one answer together: pooled, with n_outputs")
        norm_first = norm_position == "pre"
        self.vocab_size, self.causal, self.n_heads, self.padding = vocab_size, causal, n_heads, padding
        # PyTorch's constructors draw from the global generator. They draw from a copy here: what they draw is
        # overwritten below, except where a component's own vector keeps it, and then it depends on the seed alone.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(keyed_generator("constructors", seed).get_state())
            if encoders is None:
                self.embedding: nn.Embedding | ModalEmbedding = nn.Embedding(vocab_size, d_model)
                layout = Layout({"tokens": max_length})
            else:
                self.embedding = ModalEmbedding(d_model, encoders=encoders)
                layout = Layout(self.embedding.lengths)
            outer = LayerSpec(
                d_model=d_model,
                n_heads=n_heads,
                n_kv_heads=n_kv_heads,
                d_ff=4 * d_model if d_ff is None else d_ff,
                layer_index=0,
                n_layers=n_layers,
                max_length=layout.total,
                causal=causal,
                seed=seed,
                bias=bias,
                layout=layout,
            )
            self.modal_fusion = modal_fusion(outer)
            self.max_length = self.modal_fusion.longest
            specs = [replace(outer, layer_index=index, max_length=self.max_length) for index in range(n_layers)]
            self.position = position(specs[0])
            self.dropout = nn.Dropout(dropout)
            self.blocks = nn.ModuleList(
                self.modal_fusion.blocks(
                    index,
                    lambda spec=spec: Block(  # type: ignore[misc]
                        spec,
                        attention=attention,
                        activation=activation,
                        dropout=dropout,
                        norm=norm,
                        norm_first=norm_first,
                    ),
                )
                for index, spec in enumerate(specs)
            )
            self.layer_fusion = layer_fusion(specs[-1])
            self.norm = make_norm(norm, d_model, bias=bias) if norm_first else nn.Identity()
            self.readout = _readout(pooled, None if encoders is None else layout, d_model)
            self.head = nn.Linear(d_model, vocab_size if n_outputs is None else n_outputs, bias=False)
        if tie_embeddings and n_outputs is None and isinstance(self.embedding, nn.Embedding):
            self.head.weight = self.embedding.weight
        if self.position.slopes is not None:
            self._weigh_down(self.position.slopes)
        # Found once: looking for them takes longer than a small step has time for.
        self._resampled = list(self._offered("resample"))
        self._penalties = list(self._offered("penalty"))
        initialise(self, seed)

    def forward(self, inputs: Tensor | Mapping[str, Tensor], key_padding_mask: Tensor | None = None) -> Tensor:
        """Logits (B, T, vocab_size or n_outputs) of tokens; (B, 1, ...) where the model is `pooled`.

        Args:
            inputs: tokens (B, T) int64. Of several modalities each by its name, and "padding" in place of the mask.
            key_padding_mask: (B, T) bool, true where there is no token, as in `torch.nn.MultiheadAttention`. Nobody
                attends to such a position; its own logits are finite and mean nothing. None: where `padding` stands.

        Raises:
            ValueError: T is more than `max_length`, the mask is not one of the tokens, or a sample has no modality.
        """
        x, mask = self.enter(inputs, key_padding_mask)
        return self.leave(self.through(range(len(self.blocks)), [x], mask), mask)

    def enter(
        self, inputs: Tensor | Mapping[str, Tensor], key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The first part of `forward`: the stream (B, T, d_model) and the mask (B, T) that go into the first layer."""
        mask = self.mask_of(inputs, key_padding_mask)
        return self.modal_fusion.enter(self.dropout(self.position.add(self.embedding(inputs))), mask)

    def through(self, layers: Iterable[int], streams: Sequence[Tensor], mask: Tensor | None) -> list[Tensor]:
        """The middle part: `streams`, what went into the first layer and came out of each so far, and what comes out
        of `layers`, which are those that follow."""
        streams = list(streams)
        for layer in layers:
            fed = self.layer_fusion.feed(streams)
            streams.append(self.modal_fusion.layer(layer, self.blocks[layer], fed, self.position.rotate, mask))
        return streams

    def leave(self, streams: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """The last part: logits, of what went into the first layer and came out of every one."""
        x, mask = self.modal_fusion.leave(self.norm(self.layer_fusion(streams, mask)), mask)
        logits: Tensor = self.head(x if self.readout is None else self.readout(x, mask))
        return logits

    def mask_of(self, inputs: Tensor | Mapping[str, Tensor], key_padding_mask: Tensor | None = None) -> Tensor | None:
        """Where `inputs` have no token, (B, T) bool; None if they have one everywhere. The rest as in `forward`."""
        if isinstance(inputs, Tensor):
            return self._mask_of(inputs, key_padding_mask)
        return _some_of_each(inputs["padding"])

    def layers(self) -> Iterator[tuple[int, Block]]:
        """Every block with the index of its layer; a layer has several where each modality has its own."""
        for layer, blocks in enumerate(self.blocks):
            for block in blocks_of(blocks):
                yield layer, block

    def _mask_of(self, tokens: Tensor, mask: Tensor | None) -> Tensor | None:
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"the sequence has {length} tokens, but the model was built for at most {self.max_length}: "
                "shorten the sequence or build the model with a larger max_length"
            )
        if mask is None:
            return None if self.padding is None else tokens == self.padding
        if mask.shape != tokens.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"key_padding_mask must be bool {tuple(tokens.shape)} as the tokens, got {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
        return mask

    def _weigh_down(self, slopes: Tensor) -> None:
        for _, block in self.layers():
            try:
                block.attention.core.weigh_down(slopes)
            except ValueError as error:
                raise ClashError("position", "attention", str(error)) from error

    def resample(self, step: int) -> None:
        """Refresh what components draw at random, as a function of the seed and `step` (optimizer steps taken)."""
        for resample in self._resampled:
            resample(step)

    def penalty(self) -> Tensor:
        """What components ask to have added to the training loss: the sum of their `penalty()`, a scalar; 0 if none."""
        total = self.head.weight.new_zeros(())
        for penalty in self._penalties:
            total = total + penalty()
        return total

    def _offered(self, method: str) -> Iterator[Callable[..., Any]]:
        """That method of every component that has one."""
        for module in self.modules():
            if module is not self and hasattr(module, method):
                yield getattr(module, method)


def _readout(pooled: bool, layout: Layout | None, d_model: int) -> nn.Module | None:
    if layout is not None:
        return MixOfModalities(layout, d_model)
    return MeanOfTokens() if pooled else None


def _some_of_each(padding: Tensor) -> Tensor:
    if not padding.is_meta and bool(padding.all(1).any()):
        raise ValueError("a sample without any modality: there is nothing to answer from")
    return padding
