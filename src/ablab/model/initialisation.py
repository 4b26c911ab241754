"""Initial values keyed by name: the ground on which variants can be compared seed by seed.

Each parameter's initial value is a function of the seed, its qualified name and its shape, and of nothing else: not of
the order of construction, not of the other parameters, not of the device. Swapping the attention therefore leaves the
embedding and the feed-forward layers bit for bit as they were.

The values follow GPT-2: normal with standard deviation 0.02, biases zero and norms one as in its released code, and
projections into the residual stream smaller by sqrt(2 n_layers) as in the paper (Radford et al. 2019, section 2.3).

Deviation: the released code draws learned positions with 0.01; here they have 0.02 as all tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import blake2b

import torch
from torch import Tensor, nn

from ablab.model.protocols import InitialisesItself

STANDARD_DEVIATION = 0.02


def keyed_generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator whose state is a function of `key` alone, in every process and on every machine."""
    digest = blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest, "big"))


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Give every parameter of `model` its initial value. Parameters on the meta device have none and are left alone.

    The rule for a parameter is the method `init_parameter(name, parameter, generator)` of the module that owns it, if
    there is one: it fills `parameter`, a float32 CPU tensor that holds the constructor's value, from `generator`;
    `name` is the parameter's name within that module. Otherwise matrices and larger are drawn from the normal
    distribution, biases of linear layers are zero, and other vectors and scalars keep their constructor's value.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue
        module_name, _, own_name = name.rpartition(".")
        rule = _rule(model.get_submodule(module_name))
        value = parameter.detach().to("cpu", torch.float32, copy=True)
        rule(own_name, value, keyed_generator("parameter", seed, name))
        parameter.copy_(value)


def _rule(module: nn.Module) -> Callable[[str, Tensor, torch.Generator], None]:
    if isinstance(module, InitialisesItself):
        return module.init_parameter

    def default(name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if parameter.ndim >= 2:
            parameter.normal_(std=STANDARD_DEVIATION, generator=generator)
        elif isinstance(module, nn.Linear):
            parameter.zero_()

    return default


class ResidualLinear(nn.Linear):
    """A linear layer whose output is added to the residual stream, which 2 n_layers such layers feed."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, n_layers: int) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.n_layers = n_layers

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Scale the weights so that the stream's variance at the start does not grow with the number of layers."""
        if name == "weight":
            parameter.normal_(std=STANDARD_DEVIATION / math.sqrt(2 * self.n_layers), generator=generator)
        else:
            parameter.zero_()
