"""GELU (Hendrycks and Gimpel 2016, section 2), in its exact form."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from ablab.model.spec import LayerSpec


class GELU(nn.Module):
    """x times the standard normal's distribution function at x, elementwise."""

    by_unit = True

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x)
