"""Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464, section 3).

A state that fades by a decay of each token, in which a token replaces what stands under its key:

    S_t = a_t (1 - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,   o_t = S_t^T q_t
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ablab.model.attention.convolution import ShortConvolution
from ablab.model.attention.kernel import without_autocast, working_dtype
from ablab.model.attention.linear import Decay, FeatureNorm, LinearAttention
from ablab.model.attention.projections import split_heads
from ablab.model.attention.recurrence import DeltaRule
from ablab.model.initialisation import ResidualLinear
from ablab.model.spec import LayerSpec, require_at_least

EPS = 1e-6  # of norms


class GatedDeltaNet(LinearAttention):
    """A delta rule with decay, between a short convolution and a gated norm (the paper's figure 1).

    Queries, keys and values are projected, convolved and put through SiLU; queries and keys are then scaled to length
    one, and queries by 1 / sqrt(key_size) more. What a head reads is normalised by its root mean square and multiplied
    by SiLU of a projection of the input.

    Deviations: head sizes are the model's (in the released layer keys are 3/4 as wide as the stream in all, and values
    3/2: `key_size`, `value_size`), and rates of forgetting are drawn from 1 to 16, not from 0.

    Args:
        key_heads: heads of queries and keys, each of which serves neighbouring heads of values; None: as many.
        key_size: of a head's queries and keys; None: the model's head size.
        value_size: of a head's values; None: the model's head size.
        conv_size: taps of the convolution, the token's own included; 1: none of it looks back.
        decay: whether the state fades (without, this is DeltaNet: Yang et al. 2024, arXiv 2406.06484).
        gate: whether what is read is gated.
        negative_eigenvalues: write strengths go up to 2, so that a token can turn round what stands under its key
            (Grazzi et al. 2024, arXiv 2411.12537).
        chunk: tokens that are computed together.
        dropout: probability, on the features that go into the output projection.

    Raises:
        ValueError: a size is out of its range, or as `LinearAttention` does.
    """

    def __init__(
        self,
        spec: LayerSpec,
        *,
        key_heads: int | None = None,
        key_size: int | None = None,
        value_size: int | None = None,
        conv_size: int = 4,
        decay: bool = True,
        gate: bool = True,
        negative_eigenvalues: bool = False,
        chunk: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, core=DeltaRule(chunk=chunk), dropout=dropout)
        d, heads = spec.d_model, spec.n_heads
        key_heads = heads if key_heads is None else key_heads
        require_at_least(1, "key_heads", key_heads)
        if heads % key_heads:
            raise ValueError(f"key_heads={key_heads} does not divide model.n_heads={heads}: choose a divisor, or null")
        self.key_size = spec.head_size if key_size is None else key_size
        self.value_size = spec.head_size if value_size is None else value_size
        require_at_least(1, "key_size", self.key_size)
        require_at_least(1, "value_size", self.value_size)
        self.heads, self.key_heads, self.strongest = heads, key_heads, 2.0 if negative_eigenvalues else 1.0
        keys, values = key_heads * self.key_size, heads * self.value_size
        self.widths = [keys, keys, values]
        self.query = nn.Linear(d, keys, bias=spec.bias)
        self.key = nn.Linear(d, keys, bias=spec.bias)
        self.value = nn.Linear(d, values, bias=spec.bias)
        self.write = nn.Linear(d, heads, bias=spec.bias)
        self.decay = Decay(d, heads) if decay else None
        self.gate = nn.Linear(d, values, bias=spec.bias) if gate else None
        self.convolution = ShortConvolution(sum(self.widths), conv_size, bias=False)
        self.norm = FeatureNorm(self.value_size, eps=EPS)
        self.output = ResidualLinear(values, d, bias=spec.bias, n_layers=spec.n_layers)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        return self.core.state_shape(self.heads, self.key_heads, self.key_size, self.value_size)

    def streams(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        content = torch.cat([self.query(x), self.key(x), self.value(x)], -1)
        write = self.strongest * self.write(x).sigmoid()
        log_decay = torch.zeros_like(write) if self.decay is None else self.decay(x)[1]
        return content, log_decay.mT, write.mT

    def as_heads(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = convolved.split(self.widths, -1)
        q, k = (_unit(split_heads(x, self.key_size)) for x in (q, k))
        return q * self.key_size**-0.5, k, split_heads(v, self.value_size)

    def leave(self, x: Tensor, mixed: Tensor) -> Tensor:
        normal = self.norm(mixed.unflatten(-1, (-1, self.value_size))).flatten(-2)
        if self.gate is not None:
            normal = normal * silu(self.gate(x))
        out: Tensor = self.output(self.drop(normal))
        return out


def _unit(x: Tensor) -> Tensor:
    """Vectors of length one, in single precision at least; one that is almost zero is not stretched to it."""
    with without_autocast(x.device):
        x = x.to(working_dtype(x))
        return x * (x.square().sum(-1, keepdim=True) + EPS).rsqrt()
