"""The largest hidden units of each token, and zero for the others (k-sparse autoencoders: Makhzani and Frey 2013)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.spec import LayerSpec


class TopK(nn.Module):
    """x where it is among the `keep` share of the token's largest hidden units, zero elsewhere.

    Exactly max(1, round(keep * d_ff)) units of each token pass, of equal ones any. As in the paper the sign does not
    matter: where most units are negative, negative ones pass. The gradient flows through what passes.

    Args:
        keep: share of the hidden units, above 0 and at most 1.

    Raises:
        ValueError: `keep` is out of its range.
    """

    def __init__(self, spec: LayerSpec, *, keep: float) -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise ValueError(f"keep must be above 0 and at most 1, got {keep}")
        self.kept = max(1, round(keep * spec.d_ff))

    def forward(self, x: Tensor) -> Tensor:
        values, units = x.topk(self.kept, -1, sorted=False)
        return torch.zeros_like(x).scatter(-1, units, values)
