"""Gated linear units (Dauphin et al. 2017; as feed-forward layers Shazeer 2020, "GLU Variants", equation 5)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from ablab.model.spec import LayerSpec


class GatedActivation(nn.Module):
    """One half of the features, made a gate, times the other half: act(gate) * value.

    The feed-forward part projects up to `inputs` features, of which `width` come out. With three matrices in place of
    two the width is about two thirds of `d_ff` (Shazeer 2020, section 3), such that the part has as many parameters
    as with an activation that has no gate, within half a hidden unit's.

    Deviation: the paper's layers have no biases; here they have where the model's linear layers have.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        d, bias = spec.d_model, int(spec.bias)
        # Of each hidden unit: d + d + d weights and two biases instead of d + d weights and one.
        self.width = max(1, round(spec.d_ff * (2 * d + bias) / (3 * d + 2 * bias)))
        self.inputs = 2 * self.width

    def gate(self, x: Tensor) -> Tensor:
        """What multiplies the values, elementwise."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x (..., inputs), gates first -> (..., width)."""
        gate, value = x.chunk(2, -1)
        return self.gate(gate) * value


class SwiGLU(GatedActivation):
    """SiLU(gate) * value (Shazeer 2020, equation 6, with beta 1)."""

    def gate(self, x: Tensor) -> Tensor:
        return silu(x)


class GEGLU(GatedActivation):
    """GELU(gate) * value (Shazeer 2020, equation 6)."""

    def gate(self, x: Tensor) -> Tensor:
        return gelu(x)
