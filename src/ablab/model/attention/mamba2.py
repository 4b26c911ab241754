"""Mamba-2 (Dao and Gu 2024, arXiv 2405.21060, "state-space duality"): a state that fades, with one decay per head.

    S_t = a_t S_{t-1} + step_t B_t x_t^T,   y_t = S_t^T C_t + skip x_t,   a_t = exp(-rate step_t)

B and C are what keys and queries are elsewhere, and x what the values are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ablab.model.attention.convolution import ShortConvolution
from ablab.model.attention.linear import Decay, FeatureNorm, LinearAttention
from ablab.model.attention.projections import split_heads
from ablab.model.attention.recurrence import StateSpace
from ablab.model.initialisation import ResidualLinear
from ablab.model.spec import LayerSpec, require_at_least

EPS = 1e-5  # of the norm


class Mamba2(LinearAttention):
    """The paper's block (section 7.1, figure 6): all projections at the entrance, a gated norm at the exit.

    Heads are the model's, `expand` times as wide; each group of them has its norm at the exit. In the paper the
    block is a whole layer; here it stands where other options have attention, before a feed-forward part.

    Args:
        expand: the width that is mixed, in widths of the stream.
        state_size: numbers that a state keeps for each feature of a head.
        groups: of neighbouring heads that share what writes and reads (B and C) and are normalised together; must
            divide the heads.
        conv_size: taps of the convolution, the token's own included; 1: none of it looks back.
        chunk: tokens that are computed together.
        dropout: probability, on the features that go into the output projection.

    Raises:
        ValueError: a size is out of its range, or as `LinearAttention` does.
    """

    def __init__(
        self,
        spec: LayerSpec,
        *,
        expand: int = 2,
        state_size: int = 64,
        groups: int = 1,
        conv_size: int = 4,
        chunk: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, core=StateSpace(chunk=chunk), dropout=dropout)
        for name, value in (("expand", expand), ("state_size", state_size), ("groups", groups)):
            require_at_least(1, name, value)
        d, heads = spec.d_model, spec.n_heads
        if heads % groups:
            raise ValueError(f"groups={groups} does not divide model.n_heads={heads}: choose a divisor")
        self.head_size, self.state_size = expand * spec.head_size, state_size
        inner, shared = expand * d, groups * state_size
        self.widths = [inner, shared, shared]
        self.value = nn.Linear(d, inner, bias=spec.bias)
        self.key = nn.Linear(d, shared, bias=spec.bias)
        self.query = nn.Linear(d, shared, bias=spec.bias)
        self.gate = nn.Linear(d, inner, bias=spec.bias)
        self.decay = Decay(d, heads)
        self.convolution = ShortConvolution(sum(self.widths), conv_size, bias=True)
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = FeatureNorm(inner, eps=EPS, groups=groups)
        self.output = ResidualLinear(inner, d, bias=spec.bias, n_layers=spec.n_layers)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        return self.core.state_shape(len(self.skip), self.widths[1] // self.state_size, self.state_size, self.head_size)

    def streams(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        step, log_decay = self.decay(x)
        return torch.cat([self.value(x), self.key(x), self.query(x)], -1), log_decay.mT, step.mT

    def as_heads(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v, k, q = convolved.split(self.widths, -1)
        return split_heads(q, self.state_size), split_heads(k, self.state_size), split_heads(v, self.head_size)

    def read(self, mixed: Tensor, v: Tensor) -> Tensor:
        return mixed + self.skip[:, None, None].to(v.dtype) * v

    def leave(self, x: Tensor, mixed: Tensor) -> Tensor:
        out: Tensor = self.output(self.drop(self.norm(mixed * silu(self.gate(x)))))
        return out
