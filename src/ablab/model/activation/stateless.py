"""Activations without a state: elementwise ones, gates, and the largest units of each token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from ablab.model.spec import LayerSpec


class Elementwise(nn.Module):
    """One function of each hidden unit by itself, which options implement as `forward`."""

    by_unit = True

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class ReLU(Elementwise):
    """max(x, 0) (Nair and Hinton 2010): the feed-forward activation of Vaswani et al. 2017, section 3.3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class SquaredReLU(Elementwise):
    """max(x, 0)^2 (So et al. 2021, "Primer", section 4)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).square()


class GELU(Elementwise):
    """x times the standard normal's distribution function at x, exactly (Hendrycks and Gimpel 2016, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x)


class TanhGELU(Elementwise):
    """GELU with tanh in place of the distribution function, within 0.001 of it (Hendrycks and Gimpel 2016, section 2).

    x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), as in GPT-2's released code.
    """

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x, approximate="tanh")


class SiLU(Elementwise):
    """x times the logistic function of x (Hendrycks and Gimpel 2016, section 2; "swish": Ramachandran et al. 2017)."""

    def forward(self, x: Tensor) -> Tensor:
        return silu(x)


class GatedActivation(nn.Module):
    """One half of the features, made a gate, times the other half: act(gate) * value.

    Gated linear units (Dauphin et al. 2017; as feed-forward layers Shazeer 2020, "GLU Variants", equation 5). The
    feed-forward part projects up to `inputs` features, of which `width` come out. With three matrices in place of two
    the width is about two thirds of `d_ff` (Shazeer 2020, section 3), such that the part has as many parameters as with
    an activation that has no gate, within half a hidden unit's.

    Deviation: the paper's layers have no biases; here they have where the model's linear layers have.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        d, bias = spec.d_model, int(spec.bias)
        # Of each hidden unit: d + d + d weights and two biases instead of d + d weights and one.
        self.width = max(1, round(spec.d_ff * (2 * d + bias) / (3 * d + 2 * bias)))
        self.inputs = 2 * self.width

    def gate(self, x: Tensor) -> Tensor:
        """The factors of the values, elementwise."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x (..., inputs), gates first -> (..., width)."""
        gate, value = x.chunk(2, -1)
        return self.gate(gate) * value


class SwiGLU(GatedActivation):
    """SiLU(gate) * value (Shazeer 2020, equation 6, with beta 1)."""

    def gate(self, x: Tensor) -> Tensor:
        return silu(x)


class ClampedSwiGLU(GatedActivation):
    """min(gate, limit) sigmoid(alpha min(gate, limit)) (clamp(value, -limit, limit) + offset).

    gpt-oss (arXiv 2508.10925, section 2, and its released code), where gate and value are bounded, and the value's
    offset lets the gate through where the value is 0. With alpha 1 and offset 0 it is SwiGLU with both bounded, as in
    the experts of DeepSeek-V4.

    Args:
        limit: above 0.
        alpha: steepness of the gate; 1.702 makes it almost GELU's.
        offset: added to the value.

    Raises:
        ValueError: `limit` is not above 0.
    """

    def __init__(self, spec: LayerSpec, *, limit: float = 7.0, alpha: float = 1.702, offset: float = 1.0) -> None:
        super().__init__(spec)
        if not limit > 0:
            raise ValueError(f"activation.limit must be above 0, got {limit}")
        self.limit, self.alpha, self.offset = limit, alpha, offset

    def gate(self, x: Tensor) -> Tensor:
        bounded = x.clamp(max=self.limit)
        return bounded * (self.alpha * bounded).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate, value = x.chunk(2, -1)
        return self.gate(gate) * (value.clamp(-self.limit, self.limit) + self.offset)


class GEGLU(GatedActivation):
    """GELU(gate) * value (Shazeer 2020, equation 6)."""

    def gate(self, x: Tensor) -> Tensor:
        return gelu(x)


class TopK(nn.Module):
    """x where it is among the `keep` share of the token's largest hidden units, zero elsewhere.

    As in k-sparse autoencoders (Makhzani and Frey 2013). Exactly max(1, round(keep * d_ff)) units of each token pass,
    of equal ones any. As in the paper, the sign does not matter: where most units are negative, negative ones pass. The
    gradient flows through what passes.

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
