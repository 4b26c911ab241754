"""Which experts a token goes to, how much each of them counts, and how their loads are kept even."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ablab.model.buffers import FloatBuffers
from ablab.model.context import full_precision
from ablab.model.ranks import sum_over_data
from ablab.model.spec import require_at_least

Score = Literal["softmax", "sigmoid", "sqrtsoftplus"]
_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    # At zero, where softplus ends far below, a square root has no slope.
    "sqrtsoftplus": lambda logits: softplus(logits).clamp(min=1e-30).sqrt(),
}


class Routing(NamedTuple):
    """Where the tokens (B, T) go, each to K of E experts."""

    chosen: Tensor  # (B, T, K) int64
    gates: Tensor  # (B, T, K) float32 or more, by which what the chosen give is weighed
    scores: Tensor  # (B, T, E) likewise, of all


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Neighbouring experts in groups, as many as there are devices, of which a token's experts come from a few.

    DeepSeek-V2 (arXiv 2405.04434, section 2.2.2) takes the groups whose best expert has the highest score; DeepSeek-V3
    (arXiv 2412.19437, section 2.1.2) those in which the best two have the highest sum. Biases count, as in the choice.

    Args:
        count: of groups; 1: no limit.
        kept: groups that a token's experts come from.
        best: experts of a group whose scores are summed up.
    """

    count: int = 1
    kept: int = 1
    best: int = 2

    def check(self, n_experts: int, top_k: int) -> None:
        """Raises ValueError where there are no such groups, or too few experts in those that are kept."""
        if self.count == 1:
            if self.kept != 1:
                raise ValueError(
                    f"feed_forward.top_groups={self.kept}: feed_forward.n_groups=1 leaves no groups to choose from"
                )
            return
        require_at_least(1, "feed_forward.n_groups", self.count)
        if n_experts % self.count:
            raise ValueError(
                f"feed_forward.n_groups={self.count} does not divide feed_forward.n_experts={n_experts}: choose a "
                "divisor, or 1 for no groups"
            )
        size = n_experts // self.count
        for name, value, most in (("top_groups", self.kept, self.count), ("group_best", self.best, size)):
            if not 1 <= value <= most:
                raise ValueError(f"feed_forward.{name}={value}: must lie in 1..{most}, with {self.count} groups")
        if self.kept * size < top_k:
            raise ValueError(
                f"feed_forward.top_groups={self.kept} have {self.kept * size} experts, fewer than a token has, "
                f"feed_forward.top_k={top_k}: keep more groups"
            )

    def limited(self, scores: Tensor) -> Tensor:
        """Scores (..., E), minus infinity in groups that are not kept."""
        if self.count == 1:
            return scores
        apart: Tensor = scores.unflatten(-1, (self.count, -1))
        of_groups = apart.topk(self.best, -1).values.sum(-1)
        kept = torch.zeros_like(of_groups, dtype=torch.bool)
        kept = kept.scatter(-1, of_groups.topk(self.kept, -1).indices, True)
        return apart.masked_fill(~kept.unsqueeze(-1), float("-inf")).flatten(-2)

    def visited(self, chosen: Tensor, n_experts: int) -> Tensor:
        """How many groups the experts of each token come from: (..., K) int64 -> (...) int64."""
        group = chosen // (n_experts // self.count)
        return torch.zeros_like(group[..., :1]).expand(*group.shape[:-1], self.count).scatter(-1, group, 1).sum(-1)


NO_GROUPS = Groups()


class Router(FloatBuffers):
    """Scores every expert for every token, and takes the highest.

    DeepSeek-AI 2024 (DeepSeek-V3, section 2.1.2, equations 13 to 16) with `sigmoid`; Dai et al. 2024 (DeepSeekMoE,
    equations 9 to 11) with `softmax` and without renormalisation; `sqrtsoftplus` is DeepSeek-V4's.

    Scores are computed in float32 at least, whatever the rest of the model is computed in.

    Args:
        top_k: experts of a token.
        renormalise: the gates of a token add up to `scale`; else they are `scale` times the scores.
        logit_bias: the product of token and expert has an offset to learn for each expert before it is made a score
            (gpt-oss, arXiv 2508.10925, section 2).
        bias_speed: by how much the bias of an expert, which counts in the choice alone, is moved after each optimizer
            step: up if the expert got less than the mean load, down if it got more. 0: there is no bias.
        groups: to a few of which the choice is limited.

    Raises:
        ValueError: `score` is none of the three, or the groups do not fit the experts.
    """

    bias: Tensor  # (E,) float32, added to the scores that are compared, never to those that weigh

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        *,
        top_k: int,
        score: Score,
        renormalise: bool,
        scale: float,
        bias_speed: float,
        logit_bias: bool = False,
        groups: Groups = NO_GROUPS,
    ) -> None:
        super().__init__()
        groups.check(n_experts, top_k)
        if score not in _SCORES:
            raise ValueError(f"score={score}: must be {', '.join(_SCORES)}")
        self.weight = nn.Parameter(torch.empty(n_experts, d_model))
        self.logit_bias = nn.Parameter(torch.zeros(n_experts)) if logit_bias else None
        self.top_k, self.renormalise, self.scale, self.bias_speed = top_k, renormalise, scale, bias_speed
        self._score, self.groups = _SCORES[score], groups
        self.register_buffer("bias", torch.zeros(n_experts))
        # Tokens of each expert since the last optimizer step, in this process. Not a buffer: there is nothing to keep
        # between steps, and DistributedDataParallel would bring the first process's in place of one's own.
        self._load: Tensor | None = None

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, given: Tensor | None = None) -> Routing:
        """Route the stream x (B, T, d_model).

        Args:
            given: (B, T, K), the experts of each token where they are not chosen by their scores.
        """
        with full_precision(x.device.type):
            exact = torch.promote_types(x.dtype, torch.float32)
            logits = x.to(exact) @ self.weight.to(exact).T
            scores = self._score(logits if self.logit_bias is None else logits + self.logit_bias.to(exact))
        with torch.no_grad():
            chosen = self._choose(scores) if given is None else given
            if self.training and self.bias_speed:
                load = loads(chosen, len(self.bias), key_padding_mask).sum(0)
                self._load = load if self._load is None else self._load + load
        gates = scores.gather(-1, chosen)
        if self.renormalise:
            gates = gates / gates.sum(-1, keepdim=True).clamp(min=torch.finfo(gates.dtype).tiny)
        return Routing(chosen, gates * self.scale, scores)

    def _choose(self, scores: Tensor) -> Tensor:
        return self.groups.limited(scores + self.bias).topk(self.top_k, -1).indices

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the biases by the loads of the whole batch: of all its microbatches, in all processes."""
        if self.bias_speed:
            load = sum_over_data(torch.zeros_like(self.bias) if self._load is None else self._load)
            self.bias += self.bias_speed * (load.mean() - load).sign()
            self._load = None


def loads(chosen: Tensor, n_experts: int, key_padding_mask: Tensor | None) -> Tensor:
    """How many tokens of each sequence each expert has: (B, T, K) -> (B, E) float32. Padding does not count."""
    there = torch.ones_like(chosen, dtype=torch.float32)
    if key_padding_mask is not None:
        there = there * ~key_padding_mask[..., None]
    empty = there.new_zeros(len(chosen), n_experts)
    return empty.scatter_add(1, chosen.flatten(1), there.flatten(1))


class BalanceLoss(nn.Module):
    """Asks for even loads: sum over the experts of f_i P_i, 1 where all are alike and up to E / K.

    f_i is an expert's share of the choices times E, and has no gradient; P_i is the mean of its share of the scores.

    * `weight` times that of the whole batch, over all processes (Fedus et al. 2022, "Switch Transformers", equations 4
      to 6; of K choices: Lepikhin et al. 2021). Where a batch comes in several parts, each has its own.
    * `sequence_weight` times that of each sequence, the mean over the sequences (DeepSeek-V3, equations 17 to 20).

    Where a pass calls it several times, for other tokens of the same sequences each time, all tokens count together.

    Deviation: equation 18 counts the K highest scores of each token as they are, without the bias of the balance and
    without groups, so that f_i may be of other experts than the token goes to. Here both losses count the experts that
    were chosen.
    """

    penalty_of_pass = True

    def __init__(self, *, weight: float, sequence_weight: float) -> None:
        super().__init__()
        self.weight, self.sequence_weight = weight, sequence_weight
        self._adds = False  # whether passes come in several calls
        self._seen: tuple[Tensor, Tensor, int] | None = None  # of the last pass: loads and shares (B, E) each, and K

    def begin_pass(self) -> None:
        """The calls until this is said again are one pass. What nobody has asked for is forgotten."""
        self._adds, self._seen = True, None

    def forward(self, routing: Routing, key_padding_mask: Tensor | None) -> None:
        """Remember what was seen, for `penalty`."""
        experts, k = routing.scores.shape[-1], routing.chosen.shape[-1]
        share = routing.scores / routing.scores.sum(-1, keepdim=True)
        if key_padding_mask is not None:
            share = share * ~key_padding_mask[..., None]
        counts, shares = loads(routing.chosen, experts, key_padding_mask), share.sum(1)
        if self._adds and self._seen is not None:
            counts, shares = self._seen[0] + counts, self._seen[1] + shares
        self._seen = counts, shares, k

    def penalty(self) -> Tensor:
        """What is added to the training loss, of the last pass; nothing outside of training, where none is kept."""
        if not self.training:
            return torch.zeros(())
        seen, self._seen = self._seen, None  # lets go of the graph
        assert seen is not None, "asked for before any pass"
        counts, shares, k = seen
        experts = counts.shape[-1]
        tokens = counts.sum(1, keepdim=True) / k
        of_sequences = (counts * shares).sum(-1) * (experts / k) / tokens.squeeze(1).square().clamp(min=1)
        sequences = tokens.new_tensor([len(tokens)])
        whole = sum_over_data(torch.cat([counts.sum(0), tokens.sum(0), torch.ones_like(sequences), sequences]))
        load, total, processes, of_all = whole.split([experts, 1, 1, 1])
        # Gradients are averaged over the processes, each of which has some of the tokens, and of the sequences.
        of_batch = (load * shares.sum(0)).sum() * (experts / k) * (processes / total.square().clamp(min=1)).squeeze()
        share = (sequences * processes / of_all).squeeze()
        asked: Tensor = self.weight * of_batch + self.sequence_weight * of_sequences.mean() * share
        return asked


def hashed_experts(ids: Tensor, n_experts: int, top_k: int, seed: int) -> Tensor:
    """K experts for every token id, (...) int64 -> (..., K): as good as drawn at random, and always the same.

    Each pair of an id and an expert has a number by the finaliser of SplitMix64 (Steele et al. 2014); the K largest
    are taken.
    """
    pairs = ids[..., None] * n_experts + torch.arange(n_experts, device=ids.device)
    mixed = (pairs + 1) * _signed(0x9E3779B97F4A7C15) + _signed(seed * 0xD1342543DE82EF95)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ _shifted(mixed, shift)) * _signed(factor)
    return (mixed ^ _shifted(mixed, 31)).topk(top_k, -1).indices


def _signed(value: int) -> int:
    """The number of 64 bits that is `value` without its sign and higher bits, as torch's integers have it."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift that brings in zeros, which torch has for unsigned numbers alone."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
