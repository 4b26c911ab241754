"""One layer of the transformer: attention and feed-forward, each normalised before and added to the stream after.

Pre-norm order as in GPT-2 (Radford et al. 2019, section 2.3). Dropout acts on what is added to the stream; whether it
also acts inside the attention is that option's own setting, since not every core has weights to drop.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ablab.model.attention.layer import Rotate, attention_layer
from ablab.model.residual import ResidualLinear
from ablab.model.spec import LayerSpec

Factory = Callable[[LayerSpec], nn.Module]


class FeedForward(nn.Module):
    """Two linear layers with an activation between (Vaswani et al. 2017, section 3.3).

    An activation with a gate says how many features it takes and gives; see `ablab.model.activation`.
    """

    def __init__(self, spec: LayerSpec, *, activation: Factory) -> None:
        super().__init__()
        core = activation(spec)
        inputs, width = getattr(core, "inputs", spec.d_ff), getattr(core, "width", spec.d_ff)
        self.up = nn.Linear(spec.d_model, inputs, bias=spec.bias)
        self.activation = core
        self.down = ResidualLinear(width, spec.d_model, bias=spec.bias, n_layers=spec.n_layers)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, d_model) -> (B, T, d_model)."""
        y: Tensor = self.down(self.activation(self.up(x)))
        return y


class Block(nn.Module):
    """One layer, (B, T, d_model) -> (B, T, d_model)."""

    def __init__(self, spec: LayerSpec, *, attention: Factory, activation: Factory, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(spec.d_model, bias=spec.bias)
        self.attention = attention_layer(spec, attention)
        self.feed_forward_norm = nn.LayerNorm(spec.d_model, bias=spec.bias)
        self.feed_forward = FeedForward(spec, activation=activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        """`rotate` is the position's, for queries and keys; `key_padding_mask` (B, T) is true where no token is."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotate, key_padding_mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
