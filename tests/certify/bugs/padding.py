"""Places without a token that count, and rows of nothing that break."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ablab.model.feed_forward.base import Dense
from ablab.model.layer_fusion.learned import AdaptiveFusion
from ablab.model.spec import LayerSpec
from bugs.tempered import Tempered


class PaddingSeen(Tempered):
    """The mask of padded keys is not looked at."""

    def hidden(self, q: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().hidden(q, None)


class PaddingInverted(Tempered):
    """The mask of padded keys is read the other way round: true where a token is."""

    def hidden(self, q: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().hidden(q, None if key_padding_mask is None else ~key_padding_mask)


class PaddingLosesCausality(Tempered):
    """Where there is a mask of padded keys it takes the place of the causal one."""

    def hidden(self, q: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().hidden(q, None) if key_padding_mask is None else key_padding_mask[:, None, None, :]


class NaNOfNothing(Tempered):
    """A query that sees nothing gets the softmax of minus infinities."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        return scores.masked_fill(hidden, -math.inf).softmax(-1)


class PaddingInRunningMean(Tempered):
    """The running mean of the values that is added counts padded ones."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        count = torch.arange(1, v.shape[2] + 1, device=v.device, dtype=v.dtype)[:, None]
        return super().attend(q, k, v, key_padding_mask) + v.cumsum(2) / count


class PaddingInState(Tempered):
    """A state that fades, as of linear attention, takes in what padded places write."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        length = v.shape[2]
        distance = torch.arange(length, device=v.device)[:, None] - torch.arange(length, device=v.device)
        fade = torch.where(distance >= 0, 0.9 ** distance.clamp(min=0), 0.0).to(v.dtype)
        return (fade * (q @ k.mT) * self.temperature.to(q.dtype)[:, None, None]) @ v


class PaddingInSummary(AdaptiveFusion):
    """What sums up a sequence is divided by its length with the padding, and has it in its sum."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec, per="sequence")

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        return super().weigh(streams, None)


class PaddingInPenalty(Dense):
    """Asks for small outputs, by a mean over padded places, too."""

    def __init__(self, spec: LayerSpec, *, activation: Callable[[LayerSpec], nn.Module]) -> None:
        super().__init__(spec, activation=activation)
        self._asked: Tensor | None = None

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        self._asked = y.square().mean()
        return y

    def penalty(self) -> Tensor:
        """Of the last pass."""
        assert self._asked is not None
        return self._asked
