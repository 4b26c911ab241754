"""Full attention: every query sees every key (up to and including its own position, where causal)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ablab.model.spec import LayerSpec


class FullAttention(nn.Module):
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, section 3.2.1), by PyTorch's fused kernel."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.causal = spec.causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=self.causal)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        keys = torch.arange(k.shape[2], device=k.device)
        return keys <= positions[:, None] if self.causal else torch.ones_like(keys, dtype=torch.bool)
