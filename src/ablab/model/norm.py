"""The axis `norm`: how the stream is normalised, and where in a block.

A block has two norms, around its attention and around its feed-forward part. Placed before them (pre-norm, as in GPT-2:
Radford et al. 2019, section 2.3) a norm changes what a part reads, and there is a last one before the head; placed
after them (post-norm: Vaswani et al. 2017, section 3.1) it changes the stream itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from ablab.model.mechanism import Watcher, answer, drawn, projected
from ablab.model.ranks import sum_over_ranks
from ablab.model.spec import LayerSpec

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

Placement = Literal["pre", "post"]

ROWS = 64  # tokens that a norm is asked about


class Norm(nn.Module):
    """Normalises tokens (..., d_model). Options implement `forward`.

    Args:
        placement: "pre" normalises what a part of a block reads, and what the head reads; "post" the stream after a
            part has been added to it.
        eps: added to the mean square, above 0.
        bias: there is an offset to learn beside the factor.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(self, spec: LayerSpec, *, placement: Placement, eps: float, bias: bool) -> None:
        super().__init__()
        if placement not in ("pre", "post"):
            raise ValueError(f"norm.placement={placement}: must be pre or post")
        if not eps > 0:
            raise ValueError(f"norm.eps must be above 0, got {eps}")
        self.placement, self.eps = placement, eps
        self.weight = nn.Parameter(torch.ones(spec.d_model))
        self.bias = nn.Parameter(torch.zeros(spec.d_model)) if bias else None

    def before(self, x: Tensor) -> Tensor:
        """Return what a part reads of the stream x."""
        return x if self.placement == "post" else self(x)

    def after(self, x: Tensor) -> Tensor:
        """Return the stream, given x to which a part has been added."""
        return self(x) if self.placement == "post" else x

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class LayerNorm(Norm):
    """(x - mean) / sqrt(variance + eps), times a factor, plus an offset where the model has biases (Ba et al. 2016)."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre", eps: float = 1e-5) -> None:
        super().__init__(spec, placement=placement, eps=eps, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(Norm):
    """x / sqrt(mean x^2 + eps), times a factor; never with an offset (Zhang and Sennrich 2019)."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre", eps: float = 1e-6) -> None:
        super().__init__(spec, placement=placement, eps=eps, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


class NormWatcher(Watcher):
    """Measures how large numbers are before and after a norm.

    A norm is to keep the stream's scale in hand: without it `input_rms` grows from layer to layer, and with it
    `output_rms` stays near 1.
    """

    def __init__(self, axis: str, layer: int, module: Norm) -> None:
        super().__init__(axis, layer, module)
        # Squares before and after, numbers.
        self.sums = torch.zeros(3, dtype=torch.float64, device=module.weight.device)

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        count = self.sums.new_tensor(output.numel())
        self.sums += torch.stack([*(x.float().square().sum().double() for x in (args[0], output)), count])

    def metrics(self) -> dict[str, float]:
        """`input_rms` and `output_rms`, over all tokens and features that passed."""
        before, after, count = sum_over_ranks(self.sums.clone()).tolist()
        if not count:
            return super().metrics()
        return super().metrics() | {"input_rms": (before / count) ** 0.5, "output_rms": (after / count) ** 0.5}


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """Both norms of every block."""
    for layer, block in model.layers():
        for norm in (block.attention_norm, block.feed_forward_norm):
            yield NormWatcher("norm", layer, norm)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """Projections of what a norm makes of tokens of several sizes, and where it stands."""
    norm = next(iter(model.layers()))[1].attention_norm
    x = drawn("tokens", (1, ROWS, norm.weight.shape[0]), norm.weight)
    sizes = torch.logspace(-3, 1, ROWS, device=x.device, dtype=x.dtype)[:, None]
    return {"": [*projected(answer(norm, sizes * (x + 0.5))), float(norm.placement == "pre")]}
