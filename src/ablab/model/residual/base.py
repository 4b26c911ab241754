"""The contract of the axis `residual`, and the options that carry one stream: plain, scaled, and shared values.

A block has two residual connections, around its attention and around its feed-forward part. What goes from one to the
next is the *state*: the stream itself (B, T, d_model), or whatever else an option carries, (B, T, ..., d_model).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ablab.model.context import LayerContext
from ablab.model.spec import LayerSpec

Part = Callable[[Tensor], Tensor]  # a part of a block with its norm and dropout, (B, T, d_model) -> the same

VALUES = "values"  # under which the first layer leaves its own


class Connection(nn.Module):
    """What residual connections and the two ends of a model tell of themselves.

    Attributes:
        sees: names of the metrics that `seen` gives.
    """

    sees: Sequence[str] = ()

    def seen(self, state: Tensor) -> list[Tensor]:
        """For each of `sees` what is to be averaged over the tokens of the state, broadcastable to (B, T)."""
        return []


class Ends(Connection):
    """What the state is at the start, and what is read of it in the end. As it is here both are the stream."""

    def begin(self, x: Tensor) -> Tensor:
        """The state that goes into the first layer, of the embedded tokens (B, T, d_model)."""
        return x

    def forward(self, state: Tensor) -> Tensor:
        """The stream (B, T, d_model) that is read of a state, by the last norm and the head or by a layer fusion."""
        return state

    def like(self, x: Tensor, layer: int) -> Tensor:
        """An empty tensor like the state that goes into `layer`, of embedded tokens like x."""
        return torch.empty_like(self.begin(x), memory_format=torch.contiguous_format)


class Residual(Connection):
    """Leads the state past a part of a block, and adds to it what the part makes of it. As it is here: x + f(x).

    Args:
        place: of the part among all parts of the model, 0 for the first layer's attention, 1 for its feed-forward part.

    Attributes:
        is_stream: the state is the stream itself.
        shares: layers leave something to those behind them beside the state.
    """

    is_stream = True
    shares = False

    def __init__(self, spec: LayerSpec, *, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, state: Tensor, part: Part) -> Tensor:
        """The state behind the part."""
        return state + part(state)

    def given(self, context: LayerContext) -> LayerContext:
        """The context in which the part is called."""
        return context

    def ends(self, spec: LayerSpec) -> Ends:
        """A new one, for the whole model."""
        return Ends()


class ScaledResidual(Residual):
    """x + a f(x), with a learned.

    One number for each part is ReZero (Bachlechner et al. 2020, arXiv 2003.04887, section 3), which starts at 0; one
    for each feature is LayerScale (Touvron et al. 2021, CaiT, arXiv 2103.17239, section 2), which starts at 0.1 in
    models of up to 18 layers, and lower in deeper ones. A start at 1 is `plain`.

    Args:
        per: "channel" or "layer".
        initial: what a is before training.
    """

    def __init__(
        self, spec: LayerSpec, *, place: int, per: Literal["channel", "layer"] = "channel", initial: float = 0.1
    ) -> None:
        super().__init__(spec, place=place)
        if per not in ("channel", "layer"):
            raise ValueError(f"residual.per={per}: must be channel or layer")
        self.scale = nn.Parameter(torch.full((spec.d_model if per == "channel" else 1,), float(initial)))

    def forward(self, state: Tensor, part: Part) -> Tensor:
        return state + self.scale * part(state)

    def mechanism(self) -> dict[str, float]:
        """The mean size of a, and the largest."""
        size = self.scale.detach().abs()
        return {"scale": size.mean().item(), "scale_max": size.max().item()}


class ValueResidual(Residual):
    """The plain residual, and attention that mixes values a V_n + b V_1 of its own layer's and the first layer's.

    Zhou et al. 2024 (ResFormer, arXiv 2410.17897, section 3): a = b = 1/2 throughout ("identity"), or from there on
    learned for each layer ("learnable"). The first layer's values are its own.

    Args:
        initial: b before training; a is what is left of 1. At 0 training starts as `plain`.
        learned: both are learned.

    Raises:
        ValueError: there is one layer, whose values are the first one's.
    """

    shares = True
    lambdas: Tensor  # the weights of the own values and of the first layer's

    def __init__(self, spec: LayerSpec, *, place: int, initial: float = 0.5, learned: bool = True) -> None:
        super().__init__(spec, place=place)
        if spec.n_layers < 2:
            raise ValueError("model.n_layers=1 leaves no layer to give the first one's values to: take more")
        if not 0 <= initial <= 1:
            raise ValueError(f"residual.initial must lie in 0..1, got {initial}")
        self.mixes = place > 1 and place % 2 == 0  # the attention of every layer but the first
        if self.mixes:
            weights = torch.tensor([1.0 - initial, float(initial)])
            if learned:
                self.register_parameter("lambdas", nn.Parameter(weights))
            else:
                self.register_buffer("lambdas", weights, persistent=False)

    def given(self, context: LayerContext) -> LayerContext:
        def leave(own: Tensor) -> Tensor:
            context.shared[VALUES] = own
            return own

        def mix(own: Tensor) -> Tensor:
            return self.lambdas[0] * own + self.lambdas[1] * context.shared[VALUES]

        if self.place == 0:
            return replace(context, values=leave)
        return replace(context, values=mix) if self.mixes else context

    def mechanism(self) -> dict[str, float]:
        """The weights of the layer's own values and of the first layer's."""
        if not self.mixes:
            return {}
        return dict(zip(("lambda_own", "lambda_first"), self.lambdas.tolist(), strict=True))


def share_entropy(weights: Tensor) -> Tensor:
    """The entropy of the shares of weights (..., n) in their sum, over the largest that it can be: 1 of equal ones."""
    shares = weights / weights.sum(-1, keepdim=True)
    entropy: Tensor = torch.special.entr(shares).sum(-1)
    return entropy / math.log(weights.shape[-1])
