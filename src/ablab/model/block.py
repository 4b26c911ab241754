"""One layer of the transformer: attention and feed-forward, each added to the stream, and norms.

Pre-norm order as in GPT-2 (Radford et al. 2019, section 2.3), or post-norm as in Vaswani et al. 2017 (section 3.1).
Dropout acts on what is added to the stream; whether it also acts inside the attention is that option's own setting,
since not every core has weights to drop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from ablab.model.attention.layer import Rotate, attention_layer
from ablab.model.residual import ResidualLinear
from ablab.model.spec import LayerSpec

Factory = Callable[[LayerSpec], nn.Module]


Norm = Literal["layer", "rms"]


def make_norm(kind: Norm, width: int, *, bias: bool) -> nn.Module:
    """LayerNorm (Ba et al. 2016), or RMSNorm (Zhang and Sennrich 2019), which never has a bias."""
    if kind not in ("layer", "rms"):
        raise ValueError(f"model.norm={kind}: must be layer or rms")
    return nn.RMSNorm(width, eps=1e-6) if kind == "rms" else nn.LayerNorm(width, bias=bias)


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
    """One layer, (B, T, d_model) -> (B, T, d_model).

    Args:
        norm: see `make_norm`.
        norm_first: normalise what a part reads (pre-norm), not the stream after the part has been added to it.
    """

    def __init__(
        self,
        spec: LayerSpec,
        *,
        attention: Factory,
        activation: Factory,
        dropout: float,
        norm: Norm = "layer",
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention_norm = make_norm(norm, spec.d_model, bias=spec.bias)
        self.attention = attention_layer(spec, attention)
        self.feed_forward_norm = make_norm(norm, spec.d_model, bias=spec.bias)
        self.feed_forward = FeedForward(spec, activation=activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        """`rotate` is the position's, for queries and keys; `key_padding_mask` (B, T) is true where no token is."""
        return self.transform(self.mix(x, lambda y: self.attention(y, rotate, key_padding_mask)))

    def mix(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """The first half: what `attend`, the block's attention in some way, adds to the stream."""
        if self.norm_first:
            return x + self.dropout(attend(self.attention_norm(x)))
        mixed: Tensor = self.attention_norm(x + self.dropout(attend(x)))
        return mixed

    def transform(self, x: Tensor) -> Tensor:
        """The second half: what the feed-forward part adds."""
        if self.norm_first:
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        y: Tensor = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return y
