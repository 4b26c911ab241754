"""The experts of a layer, which all have the same size."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ablab.model.feed_forward.base import heeds_padding
from ablab.model.feed_forward.grouped import Places, gathered, grouped_product, places, product_dtype, spread
from ablab.model.feed_forward.routing import Routing
from ablab.model.initialisation import STANDARD_DEVIATION
from ablab.model.protocols import SizesItself
from ablab.model.spec import LayerSpec

_WORTHWHILE = 2**18  # bytes of an expert's rows, on average: with fewer, turns cost more time than the cache saves


class Experts(nn.Module):
    """E feed-forward parts of the same size side by side: down_e(activation(up_e(x))) for the tokens of expert e.

    Tokens are sorted by their experts, so that all products of a layer are one grouped product. In evaluation on a CPU
    experts of many tokens take turns.
    """

    stacks_matrices = True

    def __init__(
        self, spec: LayerSpec, n_experts: int, *, activation: Callable[[LayerSpec], nn.Module], bias: bool = False
    ) -> None:
        super().__init__()
        core = activation(spec)
        inputs, width = (core.inputs, core.width) if isinstance(core, SizesItself) else (spec.d_ff, spec.d_ff)
        self.up = nn.Parameter(torch.empty(n_experts, spec.d_model, inputs))
        self.activation = core
        self.down = nn.Parameter(torch.empty(n_experts, width, spec.d_model))
        self.up_bias = nn.Parameter(torch.zeros(n_experts, inputs)) if bias else None
        self.down_bias = nn.Parameter(torch.zeros(n_experts, spec.d_model)) if bias else None
        self._n_layers = spec.n_layers

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As the layers of a dense part. Expert by expert, so that those that there are do not hang on how many."""
        if name.endswith("bias"):
            parameter.zero_()
            return
        deviation = STANDARD_DEVIATION / (math.sqrt(2 * self._n_layers) if name == "down" else 1)
        for each in parameter:
            each.normal_(std=deviation, generator=generator)

    def forward(self, x: Tensor, routing: Routing, key_padding_mask: Tensor | None = None) -> Tensor:
        """x (B, T, d_model) -> the sum over each token's experts of gate times what the expert gives, (B, T, d_model).

        The order of the sum is that of the choice, the same on every device.
        """
        tokens, at = x.flatten(0, 1), places(routing.chosen, len(self.up))
        if self._takes_turns(tokens, at):
            given = self._in_turn(tokens, at)
        else:
            given = self._at_once(tokens, at, None if key_padding_mask is None else key_padding_mask.flatten())
        return gathered(given, routing.gates.flatten(0, 1), at).view(x.shape)

    def _takes_turns(self, tokens: Tensor, at: Places) -> bool:
        """Whether experts have enough to do, and neither gradients nor what an activation learns take all at once."""
        if tokens.device.type != "cpu" or self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        return len(at.order) * tokens.shape[1] * tokens.element_size() >= _WORTHWHILE * len(self.up)

    def _at_once(self, tokens: Tensor, at: Places, missing: Tensor | None) -> Tensor:
        told: tuple[Tensor, ...] = ()
        if missing is not None and heeds_padding(self.activation):
            told = (missing.index_select(0, at.tokens(len(tokens)))[None],)
        return self._through(spread(tokens, at), partial(_products, at), *told)

    def _in_turn(self, tokens: Tensor, at: Places) -> Tensor:
        """The same in less time: what an expert works on is still in the processor's cache."""
        given = tokens.new_empty(len(at.order), tokens.shape[1], dtype=product_dtype(tokens))
        counts = at.counts.tolist()
        of_experts = zip(at.tokens(len(tokens)).split(counts), given.split(counts), strict=True)
        for expert, (own, rows) in enumerate(of_experts):
            if len(own):
                rows.copy_(self._through(tokens.index_select(0, own), partial(_product, expert)))
        return given

    def _through(
        self, rows: Tensor, product: Callable[[Tensor, Tensor, Tensor | None], Tensor], *told: Tensor
    ) -> Tensor:
        hidden = self.activation(product(rows, self.up, self.up_bias)[None], *told)[0]
        return product(hidden, self.down, self.down_bias)


def _products(at: Places, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Sorted rows (N, inputs) by the matrix (E, inputs, outputs) of the expert that each is of, plus its bias."""
    given = grouped_product(rows, weight, at.counts)
    return given if bias is None else given + bias.index_select(0, at.owner).to(given.dtype)


def _product(expert: int, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Likewise where all rows are of one expert."""
    given = rows @ weight[expert]
    return given if bias is None else given + bias[expert].to(given.dtype)
