"""One layer of the transformer: attention and feed-forward part, each added to the stream, and norms.

Where the norms stand is the norm's own setting. Dropout acts on what is added to the stream; whether it also acts
inside the attention is that option's, since not every core has weights to drop.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ablab.model.attention.layer import Rotate, attention_layer
from ablab.model.feed_forward.base import FeedForward
from ablab.model.norm import Norm, norm_of_added
from ablab.model.spec import LayerSpec


class Block(nn.Module):
    """One layer, (B, T, d_model) -> (B, T, d_model).

    Args:
        attention: makes the attention core, or the whole of the attention.
        feed_forward: makes the feed-forward part, with its activation.
        norm: makes each of the two norms, or four where they stand on both sides of a part.
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
        self.attention_added_norm = norm_of_added(norm, spec)
        self.attention = attention_layer(spec, attention)
        self.feed_forward_norm = norm(spec)
        self.feed_forward_added_norm = norm_of_added(norm, spec)
        self.feed_forward = feed_forward(spec)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """Mix the stream over positions, then transform each token.

        Args:
            x: (B, T, d_model).
            rotate: the position's, for queries and keys.
            key_padding_mask: (B, T) bool, true where no token is.
            ids: the tokens that went into the model, (B, T) int64; None where it was given something else.
        """
        mixed = self.mix(x, lambda y: self.attention(y, rotate, key_padding_mask))
        return self.transform(mixed, key_padding_mask, ids)

    def mix(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """The first half: the stream with what `attend`, the block's attention in some way, adds to it."""
        norm = self.attention_norm
        return norm.after(x + self.dropout(self.attention_added_norm(attend(norm.before(x)))))

    def transform(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """The second half: the stream with what the feed-forward part adds to it."""
        norm = self.feed_forward_norm
        added = self.feed_forward_added_norm(self.feed_forward(norm.before(x), key_padding_mask, ids))
        return norm.after(x + self.dropout(added))
