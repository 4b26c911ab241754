"""Components that are right and look odd: what a check may take for a mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, pad
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ablab.model.attention.base import AttentionCore, repeat_heads
from ablab.model.attention.full import FullAttention
from ablab.model.attention.layer import AttentionLayer, Rotate, join_heads, split_heads
from ablab.model.feed_forward.base import Dense, FeedForward
from ablab.model.initialisation import ResidualLinear
from ablab.model.layer_fusion.base import LayerFusion
from ablab.model.modal_fusion.base import Layout
from ablab.model.modal_fusion.options import EarlyFusion
from ablab.model.norm import Norm, Placement
from ablab.model.objective.base import IGNORED, Asked, Objective, mean_over_data
from ablab.model.position import Position
from ablab.model.ranks import sum_over_ranks
from ablab.model.residual.base import Part, Residual
from ablab.model.spec import LayerSpec
from bugs.tempered import Tempered
from bugs.training import _Momentum

Activation = Callable[[LayerSpec], nn.Module]


class Softened(Tempered):
    """A temperature for each head, and nothing else."""


class MaskedBehind(Tempered):
    """Hides keys behind the softmax, and divides by what is left: the same numbers, in another order."""

    def shares(self, scores: Tensor, hidden: Tensor) -> Tensor:
        weights = scores.softmax(-1).masked_fill(hidden, 0)
        return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


class WithoutParameters(AttentionLayer):
    """Attention of the stream to itself, without any projection."""

    takes_values = False
    core: AttentionCore

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.core, self.head_size = FullAttention(spec), spec.head_size

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        heads = split_heads(x, self.head_size)
        return join_heads(self.core(*rotate(heads, heads), heads, key_padding_mask))


class Kernelised(AttentionCore):
    """Linear attention: elu(q) + 1 and elu(k) + 1, and running sums."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        k, v = (repeat_heads(each, q.shape[1]) for each in (k, v))
        exact = torch.promote_types(q.dtype, torch.float32)
        q, k, values = elu(q.to(exact)) + 1, elu(k.to(exact)) + 1, v.to(exact)
        if key_padding_mask is not None:
            k = k.masked_fill(key_padding_mask[:, None, :, None], 0)
        outer = k.unsqueeze(-1) * values.unsqueeze(-2)
        state, size = (outer.cumsum(2), k.cumsum(2)) if self.causal else (outer.sum(2, True), k.sum(2, True))
        mixed = (q.unsqueeze(-2) @ state).squeeze(-2) / ((q * size).sum(-1, keepdim=True) + 1e-6)
        return mixed.to(v.dtype)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        keys = torch.arange(k.shape[2], device=k.device)
        return keys <= positions[:, None] if self.causal else torch.ones_like(keys <= positions[:, None])

    def weights(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        k = repeat_heads(k, q.shape[1])
        scores = (elu(q[:, :, positions]) + 1) @ (elu(k) + 1).mT * self.visited(q, k, positions)
        return scores / (scores.sum(-1, keepdim=True) + 1e-6)


class Convolved(Tempered):
    """Values go through a convolution, of earlier ones alone where the model is causal, else of both sides."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.taps = nn.Parameter(torch.tensor([0.3, 0.5, 1.0]))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if key_padding_mask is not None:
            v = v.masked_fill(key_padding_mask[:, None, :, None], 0)
        length, around = v.shape[2], pad(v, (0, 0, 2, 0) if self.causal else (0, 0, 1, 1))
        taps = self.taps.to(v.dtype)
        mixed = sum((tap * around[:, :, i : i + length] for i, tap in enumerate(taps)), torch.zeros_like(v))
        return super().attend(q, k, mixed, key_padding_mask)

    def weights(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        length = k.shape[2]
        plain = super().weights(q, k, positions)
        shifts = pad(plain, (0, 2) if self.causal else (1, 1))
        return sum((tap * shifts[..., 2 - i : 2 - i + length] for i, tap in enumerate(self.taps)), 0 * plain)


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


class MeanSize(Norm):
    """Divides by the mean size, in single precision at least."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre", eps: float = 1e-2) -> None:
        super().__init__(spec, placement=placement, eps=eps, bias=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return (exact / (exact.abs().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class JitteredPosition(Position):
    """A table with noise in training, by torch's generator."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(spec.max_length, spec.d_model))

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        table = self.weight[offset : offset + x.shape[1]]
        return x + (table + 0.01 * torch.randn_like(table) if self.training else table)

    def add_at(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.weight[positions]


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


class FirstAndLast(LayerFusion):
    """The last layer, and the first one by a factor for each feature that starts at 0."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.factor = nn.Parameter(torch.zeros(spec.d_model))

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        weights = torch.zeros(self.n_layers, dtype=streams[-1].dtype, device=streams[-1].device)
        weights[-1], weights[0] = 1, self.factor.mean()
        return weights

    def forward(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None = None) -> Tensor:
        return streams[-1] + self.factor * streams[1]


class ConfidenceAsked(Objective):
    """Asks for confidence: the entropy of what is told, where it counts."""

    def __init__(self, spec: LayerSpec, *, block: Callable[..., Any], norm: Callable[..., Any]) -> None:
        super().__init__(spec, block=block, norm=norm)
        self._asked: Tensor | None = None

    def forward(self, asked: Asked) -> None:
        if not self.training:
            return
        counted = asked.targets != IGNORED
        entropy = torch.distributions.Categorical(logits=asked.logits.float()).entropy()
        sums = torch.where(counted, entropy, 0.0).sum()
        self._asked = 0.05 * mean_over_data(sums[None], counted.sum()[None])[0]

    def penalty(self) -> Tensor:
        """Of the last pass."""
        assert self._asked is not None
        return self._asked


class WeighedModalities(EarlyFusion):
    """What comes out of a layer is weighed by a gate for each token."""

    def __init__(self, spec: LayerSpec, *, layout: Layout) -> None:
        super().__init__(spec, layout=layout)
        self.gate = nn.Linear(spec.d_model, 1)

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: Any) -> Tensor:
        weight: Tensor = self.gate(x).sigmoid()
        return super().layer(layer, blocks, x, context) * (0.5 + weight)


class Momentum(_Momentum):
    """A momentum with decoupled decay."""


class Signs(Optimizer):
    """Every weight moves by the rate, against the sign of its gradient: nothing is kept."""

    def __init__(self, params: Iterable[Any], *, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(group["lr"] * weight.grad.sign())
        return loss


def staircase(optimizer: Optimizer, *, total_steps: int, stairs: int = 2) -> LambdaLR:
    """Half the rate after each of so many equal parts of the run."""
    return LambdaLR(optimizer, lambda step: 0.5 ** (stairs * step // max(1, total_steps)))
