"""The axis `norm`: how the stream is normalised, and where in a block.

A block has a norm for its attention and one for its feed-forward part. Placed before them (pre-norm, as in GPT-2:
Radford et al. 2019, section 2.3) a norm changes what a part reads, and there is a last one before the head; placed
after them (post-norm: Vaswani et al. 2017, section 3.1) it changes the stream itself. Placed on both sides of a part
(sandwich: Ding et al. 2021, CogView, arXiv 2105.13290, section 2.3, and Gemma 2) there are two for each part, which
change what it reads and what it adds, never the stream, and a last one before the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from ablab.model.mechanism import Watcher, answer, drawn, projected
from ablab.model.ranks import sum_over_ranks
from ablab.model.spec import LayerSpec

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

Placement = Literal["pre", "post", "sandwich"]
PLACEMENTS: dict[str, float] = {"post": 0.0, "pre": 1.0, "sandwich": 2.0}  # as probe outputs tell them

ROWS = 64  # tokens that a norm is asked about
SATURATED = 2.0  # where tanh is this far out its slope is below 0.08


class Norm(nn.Module):
    """Normalises tokens (..., d_model). Options implement `forward`.

    Args:
        placement: "pre" normalises what a part of a block reads, and what the head reads; "post" the stream after a
            part has been added to it; "sandwich" what "pre" does, and what a part adds, by a norm of its own.
        eps: added to the mean square, above 0; None where nothing is divided.
        bias: there is an offset to learn beside the factor.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(self, spec: LayerSpec, *, placement: Placement, eps: float | None = None, bias: bool) -> None:
        super().__init__()
        if placement not in PLACEMENTS:
            raise ValueError(f"norm.placement={placement}: must be pre, post or sandwich")
        if eps is not None and not eps > 0:
            raise ValueError(f"norm.eps must be above 0, got {eps}")
        self.placement = placement
        self.weight = nn.Parameter(torch.ones(spec.d_model))
        self.bias = nn.Parameter(torch.zeros(spec.d_model)) if bias else None

    def before(self, x: Tensor) -> Tensor:
        """Return what a part reads of the stream x."""
        return x if self.placement == "post" else self(x)

    def after(self, x: Tensor) -> Tensor:
        """Return the stream, given x to which a part has been added."""
        return self(x) if self.placement == "post" else x

    def saturated(self, x: Tensor) -> Tensor | None:
        """Return where of x (..., d_model) a change hardly comes through, bool; None of a norm without such places."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def norm_of_added(norm: Callable[[LayerSpec], Norm], spec: LayerSpec) -> nn.Module:
    """A further norm, of what a part adds to the stream, where the placement has one."""
    made = norm(spec)
    return made if made.placement == "sandwich" else nn.Identity()


class LayerNorm(Norm):
    """(x - mean) / sqrt(variance + eps), times a factor, plus an offset where the model has biases (Ba et al. 2016)."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre", eps: float = 1e-5) -> None:
        super().__init__(spec, placement=placement, eps=eps, bias=spec.bias)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(Norm):
    """x / sqrt(mean x^2 + eps), times a factor; never with an offset (Zhang and Sennrich 2019)."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre", eps: float = 1e-6) -> None:
        super().__init__(spec, placement=placement, eps=eps, bias=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


class DynamicTanh(Norm):
    """tanh(alpha x) times a factor, plus an offset where the model has biases (Zhu et al. 2025, arXiv 2503.10622, §4).

    No statistic is taken: alpha, one number to learn, is all that scales a token. The others' factor and offset stay.

    Deviation: for language models the paper also multiplies the embedding by a learned number that starts at
    sqrt(d_model). Here embeddings stay as small as for every other option, and a larger `initial_alpha` does the same
    for what the norms make of them.

    Args:
        initial_alpha: what alpha is before training, above 0.
    """

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre", initial_alpha: float = 0.5) -> None:
        super().__init__(spec, placement=placement, bias=spec.bias)
        if not initial_alpha > 0:
            raise ValueError(f"norm.initial_alpha must be above 0, got {initial_alpha}")
        self.alpha = nn.Parameter(torch.tensor(float(initial_alpha)))

    def saturated(self, x: Tensor) -> Tensor:
        return (self.alpha * x).abs() >= SATURATED

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight * (self.alpha * x).tanh()
        return y if self.bias is None else y + self.bias

    def mechanism(self) -> dict[str, float]:
        """What alpha has become."""
        return {"alpha": self.alpha.item()}


class NormWatcher(Watcher):
    """Measures how large numbers are before and after a norm, and how many of them it saturates on.

    A norm is to keep the stream's scale in hand: without it `input_rms` grows from layer to layer, and with it
    `output_rms` stays near 1.
    """

    def __init__(self, axis: str, layer: int, module: Norm) -> None:
        super().__init__(axis, layer, module)
        # Squares before and after, saturated numbers, numbers.
        self.sums = torch.zeros(4, dtype=torch.float64, device=module.weight.device)
        self.saturates = False

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        assert isinstance(module, Norm)
        saturated = module.saturated(args[0])
        self.saturates = saturated is not None
        (before, _), (behind, numbers) = (self.kept(x) for x in (args[0], output))
        found = [x.float().square().sum().double() for x in (before, behind)]
        found.append(self.sums.new_zeros(()) if saturated is None else self.kept(saturated)[0].sum().double())
        self.sums += torch.stack([*found, numbers])

    def metrics(self) -> dict[str, float]:
        """`input_rms` and `output_rms`, over all tokens and features that passed; `saturated_share` of them."""
        before, after, saturated, count = sum_over_ranks(self.sums.clone()).tolist()
        if not count:
            return super().metrics()
        found = {"input_rms": (before / count) ** 0.5, "output_rms": (after / count) ** 0.5}
        share = {"saturated_share": saturated / count} if self.saturates else {}
        return super().metrics() | found | share


class AddedNormWatcher(NormWatcher):
    """Measures how large what a part gives is before a norm makes it what is added."""

    def metrics(self) -> dict[str, float]:
        """`added_rms`, over all tokens and features that passed."""
        found = super().metrics()
        return {"added_rms": found["input_rms"]} if "input_rms" in found else {}


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """All norms of every block."""
    for layer, block in model.layers():
        for norm in (block.attention_norm, block.feed_forward_norm):
            yield NormWatcher("norm", layer, norm)
        for added in (block.attention_added_norm, block.feed_forward_added_norm):
            if isinstance(added, Norm):
                yield AddedNormWatcher("norm", layer, added)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """Projections of what a norm makes of tokens of several sizes, and where it stands."""
    norm = next(iter(model.layers()))[1].attention_norm
    x = drawn("tokens", (1, ROWS, norm.weight.shape[0]), norm.weight)
    sizes = torch.logspace(-3, 1, ROWS, device=x.device, dtype=x.dtype)[:, None]
    return {"": [*projected(answer(norm, sizes * (x + 0.5))), PLACEMENTS[norm.placement]]}
