"""One layer of the transformer: attention and feed-forward part, each added to the stream, and norms.

Where the norms stand is the norm's own setting. Dropout acts on what is added to the stream; whether it also acts
inside the attention is that option's, since not every core has weights to drop.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ablab.model.attention.layer import attention_layer
from ablab.model.context import LayerContext
from ablab.model.feed_forward.base import FeedForward
from ablab.model.norm import Norm
from ablab.model.spec import LayerSpec


class Block(nn.Module):
    """One layer, (B, T, d_model) -> (B, T, d_model).

    Args:
        attention: makes the attention core, or the whole of the attention.
        feed_forward: makes the feed-forward part, with its activation.
        norm: makes each of the two norms.
        dropout: probability, on what each half adds to the stream.
    """

    def __init__(
        self,
        spec: LayerSpec,
        *,
        attention: Callable[[LayerSpec], nn.Module],
        feed_forward: Callable[[LayerSpec], FeedForward],
        norm: Callable[[LayerSpec], Norm],
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm = norm(spec)
        self.attention = attention_layer(spec, attention)
        self.feed_forward_norm = norm(spec)
        self.feed_forward = feed_forward(spec)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """Mix the stream (B, T, d_model) over positions, then transform each token."""
        return self.transform(self.mix(x, lambda y: self.attention.within(y, context)), context)

    def mix(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """The first half: the stream with what `attend`, the block's attention in some way, adds to it."""
        norm = self.attention_norm
        return norm.after(x + self.dropout(attend(norm.before(x))))

    def transform(self, x: Tensor, context: LayerContext) -> Tensor:
        """The second half: the stream with what the feed-forward part adds to it."""
        norm = self.feed_forward_norm
        added = self.feed_forward(norm.before(x), context.key_padding_mask, context.ids)
        return norm.after(x + self.dropout(added))
