"""One layer of the transformer: attention and feed-forward part, each added to the stream, and norms.

How they are added is the residual's; where the norms stand is the norm's own setting. Dropout acts on what is added;
whether it also acts inside the attention is that option's, since not every core has weights to drop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from ablab.model.attention.cache import LayerCache
from ablab.model.attention.layer import attention_layer
from ablab.model.context import LayerContext
from ablab.model.draws import Dropout
from ablab.model.feed_forward.base import FeedForward
from ablab.model.norm import Norm, norm_of_added
from ablab.model.residual.base import Residual
from ablab.model.spec import ClashError, LayerSpec


class Block(nn.Module):
    """One layer, which leaves the stream in the shape that it has.

    Args:
        attention: makes the attention core, or the whole of the attention.
        feed_forward: makes the feed-forward part, with its activation.
        norm: makes each of the two norms, or four where they stand on both sides of a part.
        residual: makes each of the two residual connections, which are told their place among all of the model.
        dropout: probability, on what each half adds to the stream.

    Attributes:
        compiled: `Block.compute` in another form, by which a block in training is called; None: as it is written. See
            `ablab.training.compile`.
    """

    compiled: Callable[[Block, Tensor, LayerContext], Tensor] | None = None

    def __init__(
        self,
        spec: LayerSpec,
        *,
        attention: Callable[[LayerSpec], nn.Module],
        feed_forward: Callable[[LayerSpec], FeedForward],
        norm: Callable[[LayerSpec], Norm],
        residual: Callable[..., Residual],
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm = norm(spec)
        self.attention_added_norm = norm_of_added(norm, spec)
        self.attention = attention_layer(spec, attention)
        self.feed_forward_norm = norm(spec)
        self.feed_forward_added_norm = norm_of_added(norm, spec)
        self.feed_forward = feed_forward(spec)
        self.attention_residual = residual(spec, place=2 * spec.layer_index)
        self.feed_forward_residual = residual(spec, place=2 * spec.layer_index + 1)
        self.attention_dropout, self.feed_forward_dropout = Dropout(dropout), Dropout(dropout)
        self._check()

    def forward(self, x: Tensor, context: LayerContext) -> Tensor:
        """Mix the stream over positions, then transform each token.

        Args:
            x: the stream (B, T, d_model), or what the residual has in its place, (B, T, ..., d_model).
        """
        if self.compiled is not None and self.training:
            return self.compiled(self, x, context)
        return self.compute(x, context)

    def compute(self, x: Tensor, context: LayerContext) -> Tensor:
        """`forward` as it is written, whether the block is compiled or not."""
        given = self.attention_residual.given(context)
        return self.transform(self.mix(x, lambda y: self.attention.within(y, given)), context)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is not compiled: it may be of another type, on another device, and not to be trained."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]  # torch says no types here
        return {name: value for name, value in state.items() if name != "compiled"}

    def extend(self, x: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        """`forward` for new tokens alone, which the context's `step` names; the cache has those before them."""
        given = self.attention_residual.given(context)
        return self.transform(self.mix(x, lambda y: self.attention.extend(y, given, cache)), context)

    def mix(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """The first half: the stream with what `attend`, the block's attention in some way, adds to it."""
        norm = self.attention_norm

        def part(y: Tensor) -> Tensor:
            return cast(Tensor, self.attention_dropout(self.attention_added_norm(attend(norm.before(y)))))

        return norm.after(self.attention_residual(x, part))

    def transform(self, x: Tensor, context: LayerContext) -> Tensor:
        """The second half: the stream with what the feed-forward part adds to it."""
        norm = self.feed_forward_norm

        def part(y: Tensor) -> Tensor:
            added = self.feed_forward(norm.before(y), context.key_padding_mask, context.ids)
            return cast(Tensor, self.feed_forward_dropout(self.feed_forward_added_norm(added)))

        return norm.after(self.feed_forward_residual(x, part))

    def _check(self) -> None:
        residual = self.attention_residual
        if residual.shares and not self.attention.takes_values:
            raise ClashError("residual", "attention", "it has no values of its own that another layer's could go into")
        if not residual.is_stream and self.attention_norm.placement == "post":
            raise ClashError("residual", "norm", "a norm behind the addition needs one stream to normalise")
