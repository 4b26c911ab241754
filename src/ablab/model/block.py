"""One layer of the transformer: attention and feed-forward, each normalised before and added to the stream after.

Pre-norm order as in GPT-2 (Radford et al. 2019, section 2.3). Deviation: no dropout on the attention weights, since not
every attention core has a matrix of weights to drop from; dropout acts on what is added to the stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ablab.model.initialisation import STANDARD_DEVIATION
from ablab.model.spec import LayerSpec

Factory = Callable[[LayerSpec], nn.Module]
Rotate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class ResidualLinear(nn.Linear):
    """A linear layer whose output is added to the residual stream, which 2 n_layers such layers feed."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, n_layers: int) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.n_layers = n_layers

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Scaled so that the stream's variance at the start of training does not grow with the number of layers."""
        if name == "weight":
            parameter.normal_(std=STANDARD_DEVIATION / math.sqrt(2 * self.n_layers), generator=generator)
        else:
            parameter.zero_()


class MultiHeadAttention(nn.Module):
    """Projections around an attention core (Vaswani et al. 2017, section 3.2.2).

    Query, key and value are layers of their own, so that each has its own name, and with it its own initial value.
    """

    def __init__(self, spec: LayerSpec, *, core: Factory, bias: bool) -> None:
        super().__init__()
        self.heads = (spec.n_heads, spec.head_size)
        self.query = nn.Linear(spec.d_model, spec.d_model, bias=bias)
        self.key = nn.Linear(spec.d_model, spec.d_model, bias=bias)
        self.value = nn.Linear(spec.d_model, spec.d_model, bias=bias)
        self.core = core(spec)
        self.output = ResidualLinear(spec.d_model, spec.d_model, bias=bias, n_layers=spec.n_layers)

    def forward(self, x: Tensor, rotate: Rotate) -> Tensor:
        """x (B, T, d_model) -> (B, T, d_model); `rotate` is the position's, applied to queries and keys."""
        q, k, v = (
            project(x).unflatten(-1, self.heads).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        q, k = rotate(q, k)
        mixed: Tensor = self.output(self.core(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class FeedForward(nn.Module):
    """Two linear layers with an activation between (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, spec: LayerSpec, *, activation: Factory, bias: bool) -> None:
        super().__init__()
        self.up = nn.Linear(spec.d_model, spec.d_ff, bias=bias)
        self.activation = activation(spec)
        self.down = ResidualLinear(spec.d_ff, spec.d_model, bias=bias, n_layers=spec.n_layers)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, d_model) -> (B, T, d_model)."""
        y: Tensor = self.down(self.activation(self.up(x)))
        return y


class Block(nn.Module):
    """One layer, (B, T, d_model) -> (B, T, d_model)."""

    def __init__(self, spec: LayerSpec, *, attention: Factory, activation: Factory, dropout: float, bias: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(spec.d_model, bias=bias)
        self.attention = MultiHeadAttention(spec, core=attention, bias=bias)
        self.feed_forward_norm = nn.LayerNorm(spec.d_model, bias=bias)
        self.feed_forward = FeedForward(spec, activation=activation, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotate: Rotate) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotate))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
