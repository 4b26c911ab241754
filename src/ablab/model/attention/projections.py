"""What attention layers have around their cores: heads taken apart and joined, their norms, gates, and the way out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.attention.base import AttentionCore
from ablab.model.initialisation import ResidualLinear
from ablab.model.spec import LayerSpec, require_at_least


class HeadNorm(nn.RMSNorm):
    """Of each head's features, in the precision of its weights: under autocast its input has less."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def normed(x: Tensor, norm: nn.Module | None) -> Tensor:
    """What a norm makes of x; x as it is without one."""
    return x if norm is None else norm(x)


def scaled(x: Tensor, factor: float) -> Tensor:
    """x times a factor; x as it is where that is 1."""
    return x if factor == 1 else x * factor


def gate_of(spec: LayerSpec, core: AttentionCore) -> nn.Linear | None:
    """The projection from a layer's input to the logits of its output gate; None where the core has none."""
    if core.output_gate == "none":
        return None
    return nn.Linear(spec.d_model, spec.n_heads if core.output_gate == "head" else spec.d_model, bias=spec.bias)


def gated(mixed: Tensor, x: Tensor, gate: nn.Module | None) -> Tensor:
    """What a core returned (B, H, T, Dv), multiplied by the gates for the layer's input x (B, T, d_model)."""
    if gate is None:
        return mixed
    logits: Tensor = gate(x)
    return mixed * split_heads(logits.sigmoid(), logits.shape[-1] // mixed.shape[1])


def output_of(spec: LayerSpec, *, groups: int, rank: int | None) -> nn.Module:
    """The projection of all heads (B, T, d_model) onto the stream: at once, or by groups of heads."""
    if rank is None:
        if groups != 1:
            raise ValueError(f"attention.output_groups={groups} needs an attention.output_rank")
        return ResidualLinear(spec.d_model, spec.d_model, bias=spec.bias, n_layers=spec.n_layers)
    require_at_least(1, "attention.output_rank", rank)
    require_at_least(1, "attention.output_groups", groups)
    if spec.n_heads % groups:
        raise ValueError(
            f"attention.output_groups={groups} does not divide model.n_heads={spec.n_heads}: choose a divisor"
        )
    last = ResidualLinear(groups * rank, spec.d_model, bias=spec.bias, n_layers=spec.n_layers)
    return nn.Sequential(GroupedLinear(spec.d_model, rank, groups=groups), last)


class GroupedLinear(nn.Module):
    """Neighbouring features are projected by groups: (..., inputs) -> (..., groups * outputs)."""

    stacks_matrices = True

    def __init__(self, inputs: int, outputs: int, *, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, inputs // groups, outputs))

    def forward(self, x: Tensor) -> Tensor:
        apart = x.unflatten(-1, (len(self.weight), -1))
        projected: Tensor = torch.einsum("...gi,gio->...go", apart, self.weight).flatten(-2)
        return projected


def split_heads(x: Tensor, head_size: int) -> Tensor:
    """(B, T, heads * head_size) -> (B, heads, T, head_size), a view."""
    heads: Tensor = x.unflatten(-1, (-1, head_size)).transpose(1, 2)
    return heads


def join_heads(x: Tensor) -> Tensor:
    """(B, heads, T, head_size) -> (B, T, heads * head_size)."""
    return x.transpose(1, 2).flatten(2)
