"""SiLU, also called swish (Hendrycks and Gimpel 2016, section 2; Ramachandran et al. 2017)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from ablab.model.spec import LayerSpec


class SiLU(nn.Module):
    """x times the logistic function of x, elementwise."""

    by_unit = True

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return silu(x)
