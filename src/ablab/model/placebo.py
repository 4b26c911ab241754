"""Placebos: models that are the plain one in all that could matter, and whose training still takes another course.

Two are in the head, which every model calls in each pass, and one is a number of a weight that is off by rounding. They
change no name and no count of FLOPs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ablab.config.placebo import NUDGE, Placebo


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


HEADS: dict[Placebo | None, type[nn.Linear]] = {
    None: nn.Linear,
    "draw": DrawingHead,
    "order": ReversedHead,
    NUDGE: nn.Linear,
}
SMALLEST = 1e-7  # what one number is off by: the rounding of a number near 1 in single precision


@torch.no_grad()
def nudge(model: nn.Module) -> None:
    """Put the first number of the first matrix of the first block off by `SMALLEST`, before any training."""
    matrices = [(name, parameter) for name, parameter in model.named_parameters() if parameter.dim() >= 2]
    chosen = next((parameter for name, parameter in matrices if name.startswith("blocks.")), matrices[0][1])
    if not chosen.is_meta:
        chosen.view(-1)[0] += SMALLEST
