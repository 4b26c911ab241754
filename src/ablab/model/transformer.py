"""The transformer: embedding, position, blocks, layer fusion, norm and head.

It gets its components as factories and never asks which options they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ablab.model.block import Block, Factory, Norm, make_norm
from ablab.model.initialisation import initialise, keyed_generator
from ablab.model.layer_fusion.base import LastLayer, LayerFusion
from ablab.model.position.base import Position
from ablab.model.readout import MeanOfTokens
from ablab.model.spec import ClashError, LayerSpec, require_at_least


class Transformer(nn.Module):
    """A transformer over tokens.

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
    ) -> None:
        super().__init__()
        require_at_least(1, "vocab_size", vocab_size)
        require_at_least(1, "model.n_layers", n_layers)
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {dropout}")
        if norm_position not in ("pre", "post"):
            raise ValueError(f"model.norm_position={norm_position}: must be pre or post")
        norm_first = norm_position == "pre"
        self.vocab_size, self.max_length, self.causal, self.n_heads = vocab_size, max_length, causal, n_heads
        self.padding = padding
        specs = [
            LayerSpec(
                d_model=d_model,
                n_heads=n_heads,
                n_kv_heads=n_kv_heads,
                d_ff=4 * d_model if d_ff is None else d_ff,
                layer_index=index,
                n_layers=n_layers,
                max_length=max_length,
                causal=causal,
                seed=seed,
                bias=bias,
            )
            for index in range(n_layers)
        ]
        # PyTorch's constructors draw from the global generator. They draw from a copy here: what they draw is
        # overwritten below, except where a component's own vector keeps it, and then it depends on the seed alone.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(keyed_generator("constructors", seed).get_state())
            self.embedding = nn.Embedding(vocab_size, d_model)
            self.position = position(specs[0])
            self.dropout = nn.Dropout(dropout)
            self.blocks = nn.ModuleList(
                Block(
                    spec,
                    attention=attention,
                    activation=activation,
                    dropout=dropout,
                    norm=norm,
                    norm_first=norm_first,
                )
                for spec in specs
            )
            self.layer_fusion = layer_fusion(specs[-1])
            self.norm = make_norm(norm, d_model, bias=bias) if norm_first else nn.Identity()
            self.readout = MeanOfTokens() if pooled else None
            self.head = nn.Linear(d_model, vocab_size if n_outputs is None else n_outputs, bias=False)
        if tie_embeddings and n_outputs is None:
            self.head.weight = self.embedding.weight
        if self.position.slopes is not None:
            self._weigh_down(self.position.slopes)
        # Found once: looking for them takes longer than a small step has time for.
        self._resampled = list(self._offered("resample"))
        self._penalties = list(self._offered("penalty"))
        initialise(self, seed)

    def forward(self, tokens: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Logits (B, T, vocab_size or n_outputs) of tokens; (B, 1, ...) where the model is `pooled`.

        Args:
            tokens: (B, T) int64.
            key_padding_mask: (B, T) bool, true where there is no token, as in `torch.nn.MultiheadAttention`. Nobody
                attends to such a position; its own logits are finite and mean nothing. None: where `padding` stands.

        Raises:
            ValueError: T is more than `max_length`, or the mask is not one of the tokens.
        """
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"the sequence has {length} tokens, but the model was built for at most {self.max_length}: "
                "shorten the sequence or build the model with a larger max_length"
            )
        if key_padding_mask is not None and (
            key_padding_mask.shape != tokens.shape or key_padding_mask.dtype != torch.bool
        ):
            raise ValueError(
                f"key_padding_mask must be bool {tuple(tokens.shape)} as the tokens, got {key_padding_mask.dtype} "
                f"{tuple(key_padding_mask.shape)}"
            )
        if key_padding_mask is None and self.padding is not None:
            key_padding_mask = tokens == self.padding
        streams = [self.dropout(self.position.add(self.embedding(tokens)))]
        for block in self.blocks:
            streams.append(block(self.layer_fusion.feed(streams), self.position.rotate, key_padding_mask))
        x: Tensor = self.norm(self.layer_fusion(streams, key_padding_mask))
        logits: Tensor = self.head(x if self.readout is None else self.readout(x, key_padding_mask))
        return logits

    def _weigh_down(self, slopes: Tensor) -> None:
        for block in self.blocks:
            assert isinstance(block, Block)
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
