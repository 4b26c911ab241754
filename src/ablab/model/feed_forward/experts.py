"""Feed-forward parts of many experts, of which each token goes to a few."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypedDict, Unpack

from torch import Tensor, nn

from ablab.model.feed_forward.base import Dense, FeedForward
from ablab.model.feed_forward.routing import BalanceLoss, Groups, Router, Score, hashed_experts
from ablab.model.feed_forward.stacked import Experts
from ablab.model.spec import LayerSpec, require_at_least


class ExpertSettings(TypedDict, total=False):
    """What experts take whichever way tokens get to them; see `MixtureOfExperts`."""

    n_experts: int
    top_k: int
    n_shared: int
    d_expert: int | None
    renormalise: bool
    scale: float


class MixtureOfExperts(FeedForward):
    """Fine-grained experts that tokens are routed to, and shared ones that all tokens go to.

    Dai et al. 2024 (DeepSeekMoE, section 3) and DeepSeek-AI 2024 (DeepSeek-V3, section 2.1.2): what the shared experts
    give, and the sum over the chosen of gate times what they give. No token is dropped, however many an expert gets.

    Every expert is two layers around the axis `activation`, which sees the tokens of all experts together in training.
    As in the sources, routed experts have no biases unless asked for; the shared ones, which are one wider expert, have
    them where the model's linear layers do.

    Args:
        n_experts: routed ones.
        top_k: of them for each token.
        n_shared: experts for every token.
        d_expert: hidden units of an expert; None: `model.d_ff` over the experts of a token, shared ones included, so
            that a token costs what it costs in a dense part of that width, the router aside.
        score: how a token's affinity to an expert is made of their product; see `Router`.
        renormalise, scale: of the gates; see `Router`.
        n_groups, top_groups, group_best: groups of experts, how many of them a token's experts come from, and by how
            many of its experts a group is judged; see `Groups`.
        bias_speed: of the balance without a loss (DeepSeek-V3: 0.001); 0: none.
        balance_weight: of the loss that asks for even loads over the batch; 0: none.
        sequence_weight: of the loss that asks for even loads in each sequence (DeepSeek-V3: 0.0001); 0: none.
        shared_gate: what the shared experts give is weighed by a sigmoid of a projection of the token, one number
            (Qwen2-MoE: Yang et al. 2024, arXiv 2407.10671, section 2.2.2).
        expert_bias: the layers of the routed experts have biases, as in gpt-oss (arXiv 2508.10925, section 2).
        router_bias: the router's logits have a bias for each expert, as there.

    Raises:
        ValueError: a number is out of its range, or there is no shared expert to gate.
    """

    breaks_graph = "how many tokens an expert gets is data"

    def __init__(
        self,
        spec: LayerSpec,
        *,
        activation: Callable[[LayerSpec], nn.Module],
        n_experts: int = 8,
        top_k: int = 2,
        n_shared: int = 1,
        d_expert: int | None = None,
        score: Score = "sigmoid",
        renormalise: bool = True,
        scale: float = 1.0,
        n_groups: int = 1,
        top_groups: int = 1,
        group_best: int = 2,
        bias_speed: float = 0.0,
        balance_weight: float = 0.0,
        sequence_weight: float = 0.0,
        shared_gate: bool = False,
        expert_bias: bool = False,
        router_bias: bool = False,
    ) -> None:
        super().__init__()
        _check_numbers(n_experts, top_k, n_shared, d_expert)
        if shared_gate and not n_shared:
            raise ValueError("feed_forward.shared_gate=true: feed_forward.n_shared=0 leaves no expert for it to weigh")
        weights = {"bias_speed": bias_speed, "balance_weight": balance_weight, "sequence_weight": sequence_weight}
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f"feed_forward.{name}={value}: must be at least 0")
        if not 0 < scale < math.inf:
            raise ValueError(f"feed_forward.scale must be above 0, got {scale}")
        units = d_expert or max(1, round(spec.d_ff / (top_k + n_shared)))
        self.router = Router(
            spec.d_model,
            n_experts,
            top_k=top_k,
            score=score,
            renormalise=renormalise,
            scale=scale,
            bias_speed=bias_speed,
            logit_bias=router_bias,
            groups=Groups(count=n_groups, kept=top_groups, best=group_best),
        )
        self.experts = Experts(replace(spec, d_ff=units), n_experts, activation=activation, bias=expert_bias)
        self.shared = Dense(replace(spec, d_ff=units * n_shared), activation=activation) if n_shared else None
        self.shared_gate = nn.Linear(spec.d_model, 1, bias=False) if shared_gate else None
        asks = balance_weight or sequence_weight
        self.balance = BalanceLoss(weight=balance_weight, sequence_weight=sequence_weight) if asks else None
        self.n_experts, self.top_k, self.n_shared = n_experts, top_k, n_shared

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        routing = self.router(x, key_padding_mask, self._given(ids))
        if self.balance is not None and self.training:
            self.balance(routing, key_padding_mask)
        routed: Tensor = self.experts(x, routing, key_padding_mask)
        if self.shared is None:
            return routed
        shared: Tensor = self.shared(x, key_padding_mask)
        return routed + (shared if self.shared_gate is None else self.shared_gate(x).sigmoid() * shared)

    def shared_weight(self, x: Tensor) -> Tensor:
        """What the shared experts of each token of x (B, T, d_model) count together, (B, T)."""
        each = x.new_ones(x.shape[:-1]) if self.shared_gate is None else self.shared_gate(x).sigmoid().squeeze(-1)
        return self.n_shared * each

    def activations(self) -> Iterator[tuple[nn.Module, int]]:
        yield self.experts.activation, self.experts.down.shape[1]
        if self.shared is not None:
            yield from self.shared.activations()

    @property
    def inactive_parameters(self) -> int:
        """Those of the routed experts that a token does not go to."""
        routed = sum(parameter.numel() for parameter in self.experts.parameters(recurse=False))
        return routed * (self.n_experts - self.top_k) // self.n_experts

    def _given(self, ids: Tensor | None) -> Tensor | None:
        return None


class HashedExperts(MixtureOfExperts):
    """Experts that a token's id alone decides on, so that there is no choice to learn and none to balance.

    Roller et al. 2021 ("Hash Layers"), with gates that are learned, as in DeepSeek-V4: the scores of the experts that
    the id has. The hash is drawn with the seed of the run, and differs from layer to layer; modules
    of `multi_token` have the last layer's.

    Args:
        score, settings: as of `MixtureOfExperts`.
    """

    needs_ids = True

    def __init__(
        self,
        spec: LayerSpec,
        *,
        activation: Callable[[LayerSpec], nn.Module],
        score: Score = "sqrtsoftplus",
        **settings: Unpack[ExpertSettings],
    ) -> None:
        super().__init__(spec, activation=activation, score=score, **settings)
        self.hash_seed = spec.seed * spec.n_layers + spec.layer_index

    def _given(self, ids: Tensor | None) -> Tensor:
        if ids is None:
            raise ValueError("experts by the token's id need tokens; choose feed_forward=moe")
        return hashed_experts(ids, self.n_experts, self.top_k, self.hash_seed)


def _check_numbers(n_experts: int, top_k: int, n_shared: int, d_expert: int | None) -> None:
    require_at_least(1, "feed_forward.n_experts", n_experts)
    require_at_least(1, "feed_forward.top_k", top_k)
    require_at_least(0, "feed_forward.n_shared", n_shared)
    if d_expert is not None:
        require_at_least(1, "feed_forward.d_expert", d_expert)
    if top_k > n_experts:
        raise ValueError(
            f"feed_forward.top_k={top_k} is more than there are experts, feed_forward.n_experts={n_experts}"
        )
