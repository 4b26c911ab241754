"""Activations, feed-forward parts and residuals that are right and look odd."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ablab.model.feed_forward.base import Dense, FeedForward
from ablab.model.initialisation import ResidualLinear
from ablab.model.ranks import sum_over_ranks
from ablab.model.residual.base import Part, Residual
from ablab.model.spec import LayerSpec

Activation = Callable[[LayerSpec], nn.Module]


class GateFromZero(Residual):
    """A gate that starts at 0, so that what is behind it learns from the second step on."""

    def __init__(self, spec: LayerSpec, *, place: int) -> None:
        super().__init__(spec, place=place)
        self.gate = nn.Parameter(torch.zeros(1))
        self.turn = nn.Parameter(torch.ones(spec.d_model))

    def forward(self, state: Tensor, part: Part) -> Tensor:
        return state + part(state) + self.gate * (self.turn * state).tanh()


class ZeroOutput(Dense):
    """A second path whose last matrix starts at 0."""

    def __init__(self, spec: LayerSpec, *, activation: Activation) -> None:
        super().__init__(spec, activation=activation)
        self.into = nn.Linear(spec.d_model, 8, bias=False)
        self.out = _Zero(8, spec.d_model, bias=False)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        y: Tensor = super().forward(x) + self.out(self.into(x))
        return y


class _Zero(nn.Linear):
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        parameter.zero_()


class StochasticDepth(Residual):
    """In training leaves out a part for some samples, by torch's generator, which is seeded for each pass."""

    def forward(self, state: Tensor, part: Part) -> Tensor:
        if not self.training:
            return state + part(state)
        kept = torch.rand(len(state), *[1] * (state.dim() - 1), device=state.device) < 0.8
        return state + part(state) * kept.to(state.dtype) / 0.8


class StraightThrough(nn.Module):
    """The largest quarter of the units passes; the gradient is that of a softer choice."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.keep = max(1, spec.d_ff // 4)

    def forward(self, x: Tensor) -> Tensor:
        soft = x.sigmoid()
        hard = (x >= x.topk(self.keep, -1).values[..., -1:]).to(x.dtype)
        return x * (hard + soft - soft.detach())


class FollowsItsInputs(nn.Module):
    """A threshold that follows its inputs in training, behind its use: a buffer of every checkpoint."""

    average: Tensor

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(()))
        self._seen: list[Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        passed = torch.where(x > self.average, x, 0.0)
        if self.training:
            seen = torch.stack([x.detach().abs().sum(), x.new_tensor(float(x.numel()))])
            if self._seen is None:
                self._follow(seen)
            else:
                self._seen.append(seen)
        return passed

    def begin_microbatches(self) -> None:
        """The passes that follow are one batch."""
        self._seen = []

    def end_microbatches(self) -> None:
        """They were."""
        if self._seen:
            self._follow(torch.stack(self._seen).sum(0))
        self._seen = None

    def _follow(self, seen: Tensor) -> None:
        total, count = sum_over_ranks(seen)
        self.average.lerp_((total / count).to(self.average.dtype), 0.05)


class Annealed(nn.Module):
    """Grows steeper with the steps that it is told."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.steep = 1.0

    def resample(self, step: int) -> None:
        """Before each step."""
        self.steep = 1 + min(step, 100) / 100

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.steep * x).sigmoid()


class LearnedSlope(nn.Module):
    """PReLU, whose slope starts at 0: the default at the start."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() - self.slope * (-x).relu()


class AlwaysPositive(nn.Module):
    """softplus: no output is ever 0."""

    by_unit = True

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(x)


class SoftExperts(FeedForward):
    """Every token goes to all experts, weighed by a softmax."""

    def __init__(self, spec: LayerSpec, *, activation: Activation) -> None:
        super().__init__()
        self.router = nn.Linear(spec.d_model, 3, bias=False)
        self.experts = nn.ModuleList(Dense(spec, activation=activation) for _ in range(3))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        gates = self.router(x).softmax(-1)
        return sum((gates[..., i, None] * each(x) for i, each in enumerate(self.experts)), torch.zeros_like(x))


class ById(Dense):
    """A table by token id is added, which starts at 0: most of its rows get no gradient of a batch."""

    needs_ids = True

    def __init__(self, spec: LayerSpec, *, activation: Activation) -> None:
        super().__init__(spec, activation=activation)
        self.table = nn.Embedding(64, spec.d_model)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        return y if ids is None else y + self.table(ids % 64)


class Narrow(FeedForward):
    """A feed-forward part without any activation, and of half the width."""

    def __init__(self, spec: LayerSpec, *, activation: Activation) -> None:
        super().__init__()
        self.up = nn.Linear(spec.d_model, spec.d_model, bias=spec.bias)
        self.gate = nn.Linear(spec.d_model, spec.d_model, bias=spec.bias)
        self.down = ResidualLinear(spec.d_model, spec.d_model, bias=spec.bias, n_layers=spec.n_layers)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        y: Tensor = self.down(self.up(x) * self.gate(x))
        return y


class TokenRows(Dense):
    """Adds a learned row for each token, found by its number modulo the rows, in a parameter of its own."""

    def __init__(self, spec: LayerSpec, *, activation: Activation, rows: int = 64, least: int = 1) -> None:
        super().__init__(spec, activation=activation)
        if least < 1:
            raise ValueError("least must be at least 1")
        self.table = nn.Parameter(torch.full((max(rows, least), spec.d_model), 0.02))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        assert ids is not None
        y: Tensor = super().forward(x) + self.table[ids % len(self.table)]
        return y
