"""Parameters that are not trained, not saved, not moved, or have no effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ablab.model.attention.base import AttentionCore
from ablab.model.attention.dsa import DeepSeekSparseAttention
from ablab.model.feed_forward.base import Dense, FeedForward
from ablab.model.feed_forward.routing import Router, Routing
from ablab.model.layer_fusion.base import LayerFusion
from ablab.model.norm import Norm, Placement
from ablab.model.objective.base import Asked, Objective
from ablab.model.residual.base import Part, Residual
from ablab.model.residual.streams import ManifoldHyperConnections, Weights
from ablab.model.spec import LayerSpec
from bugs.tempered import Tempered


class NeverUsed(Tempered):
    """A projection is made and never called."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.refine = nn.Linear(spec.head_size, spec.head_size)


class ParametersInAList(Tempered):
    """Parameters of a Python list are none of the module's: not trained, saved or moved."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.scales = [nn.Parameter(torch.linspace(0.5, 1.5, spec.head_size)) for _ in range(spec.n_heads)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().attend(q * torch.stack(list(self.scales))[:, None].to(q), k, v, key_padding_mask)


class PlainTable(Tempered):
    """A table to learn is a plain tensor that asks for a gradient."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.bias = torch.linspace(-1, 1, spec.max_length).requires_grad_()

    def scored(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scored(q, k) + self.bias[: k.shape[2]].to(q)


class LayersInADict(nn.Module):
    """Layers of a Python dict: not trained, saved or moved."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.layers = {"gate": nn.Linear(spec.d_ff, spec.d_ff)}

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.layers["gate"](x)
        return x * gate.sigmoid()


class DrawnByConstructor(Tempered):
    """A fixed projection drawn by the constructor into a plain attribute: each process and each resume has its own."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        own = torch.Generator()
        own.seed()
        self.projection = torch.randn(spec.head_size, spec.head_size, generator=own) / spec.head_size**0.5

    def scored(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scored(q @ self.projection.to(q), k)


class AlwaysTheSameStart(Tempered):
    """Initial values of its own generator with a seed of its own: the seed of the run changes nothing."""

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Drawn around 1."""
        parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))


class StartOfAnyGenerator(Tempered):
    """Initial values of torch's generator, wherever it is."""

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Drawn around 1."""
        parameter.uniform_(0.5, 1.5)


class DetachedIndexer(DeepSeekSparseAttention):
    """The indexer's loss is detached: it never learns."""

    def __init__(self, spec: LayerSpec, *, keys: int = 8) -> None:
        super().__init__(spec, keys=keys, index_heads=2)
        learning = self.core.learning
        assert learning is not None
        keep = learning.keep
        learning.keep = lambda lost, mask: keep(lost.detach(), mask)  # type: ignore[method-assign, assignment]


class ChoiceWithoutGradient(Tempered):
    """Learned scores choose the keys, and nothing but the choice hangs on them: no gradient."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.scorer = nn.Parameter(torch.linspace(-1, 1, spec.head_size))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        kept = (k @ self.scorer.to(k))[..., None] > 0
        return super().attend(q, k * kept, v, key_padding_mask)


class HardGate(nn.Module):
    """A gate of 0 or 1, without the straight-through gradient."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.linspace(-0.1, 0.1, spec.d_ff))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x > self.threshold).to(x.dtype)


class Step(nn.Module):
    """1 where x is above 0: what is before it never gets a gradient."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)


class TwoGatesOfZero(Residual):
    """Two gates in a row that both start at 0: neither ever gets a gradient."""

    def __init__(self, spec: LayerSpec, *, place: int) -> None:
        super().__init__(spec, place=place)
        self.inner, self.outer = (nn.Parameter(torch.zeros(1)) for _ in range(2))

    def forward(self, state: Tensor, part: Part) -> Tensor:
        y = part(state)
        return state + y + self.inner * self.outer * y.tanh()


class MixNeverApplied(ManifoldHyperConnections):
    """The mix of the streams is computed and left aside."""

    def connection(self, streams: Tensor) -> Weights:
        weights = super().connection(streams)
        return weights._replace(mix=torch.eye(self.streams, dtype=streams.dtype).expand_as(weights.mix))


class WeightsLeftAside(LayerFusion):
    """The layers' weights are computed, and the last layer is returned."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.logits = nn.Parameter(torch.zeros(spec.n_layers))

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        return self.logits.softmax(-1)

    def forward(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None = None) -> Tensor:
        self.sum(streams, self.weigh(streams, key_padding_mask))
        return streams[-1]


class FactorForgotten(Norm):
    """The learned factor is never multiplied by."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre") -> None:
        super().__init__(spec, placement=placement, eps=1e-6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs().mean(-1, keepdim=True) + 1e-6)


class DetachedSkip(Residual):
    """The stream that leads past a part is detached: what is below learns through parts alone."""

    def forward(self, state: Tensor, part: Part) -> Tensor:
        return 0.9 * state.detach() + part(state)


class BiasTrained(Router):
    """The balance's bias is a parameter that only the choice sees: a gradient never comes."""

    def __init__(self, d_model: int, n_experts: int) -> None:
        super().__init__(d_model, n_experts, top_k=2, score="sigmoid", renormalise=True, scale=1.0, bias_speed=0.0)
        del self.bias
        self.bias = nn.Parameter(torch.zeros(n_experts))


class ExpertsWithTrainedBias(FeedForward):
    """Experts by a router whose bias of the balance is a parameter, which never gets a gradient."""

    def __init__(self, spec: LayerSpec, *, activation: Callable[[LayerSpec], nn.Module]) -> None:
        super().__init__()
        self.router = BiasTrained(spec.d_model, 4)
        self.experts = nn.ModuleList(Dense(spec, activation=activation) for _ in range(4))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        return of_all(self.experts, x, self.router(x, key_padding_mask))


def of_all(experts: nn.ModuleList, x: Tensor, routing: Routing) -> Tensor:
    """Every expert of every token, weighed by the gates of those that are chosen."""
    gates = torch.zeros_like(routing.scores).scatter(-1, routing.chosen, routing.gates).to(x.dtype)
    return sum((gates[..., i, None] * each(x) for i, each in enumerate(experts)), torch.zeros_like(x))


class PenaltyDetached(Objective):
    """The penalty for the size of the logits is made of a number, which has no gradient."""

    def __init__(
        self, spec: LayerSpec, *, block: Callable[..., nn.Module], norm: Callable[..., nn.Module], weight: float = 0.1
    ) -> None:
        super().__init__(spec, block=block, norm=norm)  # type: ignore[arg-type]
        self.weight = weight
        self._asked: Tensor | None = None

    def forward(self, asked: Asked) -> None:
        self._asked = torch.tensor(self.weight * asked.logits.logsumexp(-1).square().mean().item())

    def penalty(self) -> Tensor:
        """Of the last pass."""
        assert self._asked is not None
        return self._asked


class SharedBySetattr(AttentionCore):
    """A temperature that is overwritten by a tensor in the constructor's end: it is a plain attribute from then on."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.log_temperature = nn.Parameter(torch.zeros(spec.n_heads))
        self.temperature = self.log_temperature.exp() * 1.5

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
        if key_padding_mask is not None:
            mask = mask & ~key_padding_mask[:, None, None, :]
        q = q * self.temperature[:, None, None].to(q)
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        return torch.arange(k.shape[2]) <= positions[:, None]


class FrozenByMistake(Tempered):
    """The temperature is made under no_grad with requires_grad off, and never trained."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.temperature.requires_grad_(False)
