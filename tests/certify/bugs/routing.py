"""Experts and other feed-forward parts, streams and layer fusions that mix up who is who."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ablab.model.feed_forward.base import Dense, FeedForward
from ablab.model.feed_forward.experts import MixtureOfExperts
from ablab.model.feed_forward.routing import Router, Routing
from ablab.model.layer_fusion.base import LayerFusion
from ablab.model.norm import Norm, Placement
from ablab.model.residual.base import Part, Residual
from ablab.model.residual.streams import HyperConnections, Weights
from ablab.model.spec import LayerSpec

Activation = Callable[[LayerSpec], nn.Module]


class ExpertsChooseTokens(FeedForward):
    """Each expert takes the tokens of a sequence that score highest, later ones included."""

    def __init__(self, spec: LayerSpec, *, activation: Activation) -> None:
        super().__init__()
        self.router = nn.Linear(spec.d_model, 4, bias=False)
        self.experts = nn.ModuleList(Dense(spec, activation=activation) for _ in range(4))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        scores = self.router(x).softmax(-1)
        least = scores.topk(max(1, x.shape[1] // 4), 1).values[:, -1:]
        gates = scores * (scores >= least)
        return sum((gates[..., i, None] * each(x) for i, each in enumerate(self.experts)), torch.zeros_like(x))


class TokensMixedUp(FeedForward):
    """Tokens are sorted by their experts, and what comes out is put back by the same order and not by its inverse."""

    def __init__(self, spec: LayerSpec, *, activation: Activation) -> None:
        super().__init__()
        self.router = nn.Linear(spec.d_model, 2, bias=False)
        self.experts = nn.ModuleList(Dense(spec, activation=activation) for _ in range(2))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        tokens, scores = x.flatten(0, 1), self.router(x).flatten(0, 1).softmax(-1)
        best = scores.argmax(-1)
        order = best.argsort(stable=True)
        first = int((best == 0).sum())
        parts = tokens[order].split([first, len(order) - first])
        given = [each(part) for each, part in zip(self.experts, parts, strict=True)]
        joined: Tensor = torch.cat(given)[order] * scores.amax(-1, keepdim=True)
        return joined.view(x.shape)


class BiasThatWeighs(Router):
    """The balance's bias is in the scores that weigh, too."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, given: Tensor | None = None) -> Routing:
        routing = super().forward(x, key_padding_mask, given)
        gates = (routing.scores + self.bias).gather(-1, routing.chosen)
        return routing._replace(gates=gates / gates.sum(-1, keepdim=True))


class ExpertsWithBiasThatWeighs(MixtureOfExperts):
    """Experts whose bias of the balance weighs what they give."""

    def __init__(self, spec: LayerSpec, *, activation: Activation) -> None:
        super().__init__(spec, activation=activation, n_experts=4, bias_speed=0.001)
        self.router = BiasThatWeighs(
            spec.d_model, 4, top_k=2, score="sigmoid", renormalise=True, scale=1.0, bias_speed=0.001
        )


class LoadsInPython(MixtureOfExperts):
    """The bias of the balance moves by loads, and is a plain tensor that no checkpoint has."""

    def __init__(self, spec: LayerSpec, *, activation: Activation) -> None:
        super().__init__(spec, activation=activation, n_experts=4, bias_speed=0.01)
        bias = self.router.bias
        del self.router.bias
        self.router.bias = bias.clone()


class SqueezedOverSequence(Dense):
    """Channels are gated by a mean over the whole sequence (squeeze and excitation)."""

    def __init__(self, spec: LayerSpec, *, activation: Activation) -> None:
        super().__init__(spec, activation=activation)
        self.gate = nn.Linear(spec.d_model, spec.d_model)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        weight: Tensor = self.gate(x.mean(1, keepdim=True)).sigmoid()
        return weight * super().forward(x)


class ShiftedTheWrongWay(Dense):
    """Mixes each token with its neighbour before it works on it: with the later one."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        later = torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)
        return super().forward(0.5 * (x + later))


class NextTokenById(Dense):
    """A table by token id is added, of the ids rolled the wrong way: that of the token to be predicted."""

    needs_ids = True

    def __init__(self, spec: LayerSpec, *, activation: Activation) -> None:
        super().__init__(spec, activation=activation)
        self.table = nn.Embedding(64, spec.d_model)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        return y if ids is None else y + self.table(ids.roll(-1, 1) % 64)


class NormedOverTokens(Norm):
    """The mean square is taken over tokens and features."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre") -> None:
        super().__init__(spec, placement=placement, eps=1e-6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean((-2, -1), keepdim=True) + 1e-6).sqrt() * self.weight


class SoftmaxOverTokens(LayerFusion):
    """The softmax of the layers' weights runs over the tokens."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.gate = nn.Linear(spec.d_model, spec.n_layers)

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        weights: Tensor = self.gate(streams[-1]).softmax(1)
        return weights


class SummaryOfEverything(LayerFusion):
    """The weights of the layers come from a mean over the sequence, later tokens included."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.gate = nn.Linear(spec.d_model, spec.n_layers)

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        last = streams[-1]
        if key_padding_mask is not None:
            there = (~key_padding_mask).to(last.dtype)[..., None]
            mean = (last * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
        else:
            mean = last.mean(1, keepdim=True)
        weights: Tensor = self.gate(mean).softmax(-1)
        return weights


class NextTokensStream(Residual):
    """A share of the stream is shifted by one token before the part reads it: to the wrong side."""

    def forward(self, state: Tensor, part: Part) -> Tensor:
        later = torch.cat([state[:, 1:], state[:, -1:]], 1)
        return state + part(0.9 * state + 0.1 * later)


class StreamsByToken(HyperConnections):
    """The weights of the streams are computed from the mean over all tokens."""

    def connection(self, streams: Tensor) -> Weights:
        return super().connection(streams.mean(1, keepdim=True).expand_as(streams))


class HighwayOverBatch(Residual):
    """A gate between the stream and the part is a softmax over the batch."""

    def __init__(self, spec: LayerSpec, *, place: int) -> None:
        super().__init__(spec, place=place)
        self.gate = nn.Linear(spec.d_model, 1)

    def forward(self, state: Tensor, part: Part) -> Tensor:
        weight: Tensor = self.gate(state).softmax(0)
        return state + (1 + weight) * part(state)
