"""Placebos: models that are the plain one in all that could matter, and whose training still takes another course.

Both are in the head, which every model calls in each pass, and change no parameter, no name and no count of FLOPs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ablab.config.placebo import Placebo


class DrawingHead(nn.Linear):
    """A head that draws one number from the global generator in each training pass, and leaves it unused.

    What is computed is the same to the last bit, unless something else draws from that generator, too.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            torch.rand((), device=input.device)
        return super().forward(input)


class ReversedHead(nn.Linear):
    """A head that adds up its products over the width of the stream from the last to the first.

    The sums are equal but for rounding, which training then makes larger, as it does with any other small difference.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input.flip(-1), self.weight.flip(-1), self.bias)


HEADS: dict[Placebo | None, type[nn.Linear]] = {None: nn.Linear, "draw": DrawingHead, "order": ReversedHead}
