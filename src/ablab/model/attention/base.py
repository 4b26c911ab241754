"""The contract of attention cores: signature, grouped heads, dropout, and what a core can tell of itself."""

from __future__ import annotations

import math
from typing import Literal, TypedDict, get_args

import torch
from torch import Tensor, nn

from ablab.model.attention.cache import LayerCache, Step
from ablab.model.draws import dropout
from ablab.model.spec import LayerSpec

DropoutPlace = Literal["output", "weights"]
GateKind = Literal["none", "head", "feature"]


class Switches(TypedDict, total=False):
    """What every softmax attention may take beside its own settings; see `AttentionCore`."""

    qk_norm: bool
    output_gate: GateKind
    sinks: bool
    softcap: float | None


class AttentionCore(nn.Module):
    """Mixes values over positions. Subclasses implement `attend` and `visited`.

    Args:
        dropout: probability.
        dropout_on: "output" drops features of what the core returns, as every core can; "weights" drops attention
            weights (Vaswani et al. 2017 as implemented), for cores that have them in one piece.
        share_qk: keys are the normalised queries (Reformer: Kitaev et al. 2020, section 2, "Shared-QK attention"),
            and a query attends to itself only where it has nothing else. The attention layer then has no projection
            of keys; where a core is called directly, the caller passes such keys.
        qk_norm: the attention layer normalises queries and keys, as `ablab.model.attention.layer` says.
        output_gate: the attention layer weighs what the core returns, a number for each head or each of its features.
        sinks: a logit to learn for each head takes part in the softmax and has no value, so that the weights of a query
            sum to less than 1; see `ablab.model.attention.dense`.
        softcap: bounds each score s by softcap tanh(s / softcap), before a bias by distance; above 0, None: not at all.

    Raises:
        ValueError: a setting is out of its range, dropout on weights that the core never has in one piece, or shared
            queries and keys with fewer heads of keys than of queries.
    """

    drops_weights = False  # whether the core can drop attention weights
    # Whether every head is mixed by the same rule from its own queries, keys and values alone (and slope): a process
    # can then hold some of the heads, and gives what these would give among the others.
    by_head = False
    takes_slopes = False  # whether it can weigh keys down by their distance
    by_length = False  # whether what a query sees hangs on how long the sequence is; a cache's room stands for that
    slopes: Tensor | None

    def __init__(
        self,
        spec: LayerSpec,
        *,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        share_qk: bool = False,
        qk_norm: bool = False,
        output_gate: GateKind = "none",
        sinks: bool = False,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        if output_gate not in get_args(GateKind):
            raise ValueError(f"attention.output_gate={output_gate}: must be none, head or feature")
        if softcap is not None and not softcap > 0:
            raise ValueError(f"attention.softcap must be above 0, or null for no bound, got {softcap}")
        if not 0 <= dropout < 1:
            raise ValueError(f"attention.dropout must be at least 0 and below 1, got {dropout}")
        if dropout_on == "weights" and not self.drops_weights:
            raise ValueError(
                f"attention.dropout_on=weights: {type(self).__name__} never has the attention weights in one piece, so "
                "it cannot drop them: use attention.dropout_on=output"
            )
        if share_qk and spec.kv_heads != spec.n_heads:
            raise ValueError(
                "attention.share_qk=true needs as many heads of keys as of queries, but "
                f"model.n_kv_heads={spec.kv_heads} and model.n_heads={spec.n_heads}"
            )
        self.causal = spec.causal
        self.register_buffer("slopes", None, persistent=False)
        self.dropout, self.dropout_on, self.share_qk = dropout, dropout_on, share_qk
        self.qk_norm, self.output_gate, self.softcap = qk_norm, output_gate, softcap
        self.sinks = nn.Parameter(torch.zeros(spec.n_heads)) if sinks else None

    def weigh_down(self, slopes: Tensor) -> None:
        """From now on subtract slopes[h] times the distance between query and key, in tokens, from their score.

        Args:
            slopes: (H,), at least 0.

        Raises:
            ValueError: the core has no way to.
        """
        if not self.takes_slopes:
            raise ValueError("its scores take no bias by distance")
        for module in self.modules():
            if isinstance(module, AttentionCore):
                module.register_buffer("slopes", slopes, persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix the values.

        Args:
            q: (B, H, T, D), after the position encoding.
            k: (B, K, T, D), after the position encoding; K divides H, and each of its heads serves H / K neighbours.
            v: (B, K, T, Dv).
            key_padding_mask: (B, T) bool, true where there is no token, as in `torch.nn.MultiheadAttention`. Nobody
                attends to such a position; what the core returns there is finite and means nothing.

        Returns:
            (B, H, T, Dv), zero where a query has nothing to attend to.
        """
        out = self.attend(q, k, v, key_padding_mask)
        return dropout(self, out, self.dropout) if self.dropout_on == "output" else out

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """`forward` without dropout on the output."""
        raise NotImplementedError

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        """The keys that the S queries at `positions` (S,) may give weight to: bool, broadcastable to (B, H, S, T).

        q and k are as in `forward`, whole and without padding. For measurements: neither fast nor differentiable.
        """
        raise NotImplementedError

    def new_cache(self, batch: int, capacity: int, *, heads: int, size: int, like: Tensor) -> LayerCache | None:
        """An empty one for keys and values of so many heads; None: new tokens need the whole sequence."""
        return None

    def cache_numbers(self, length: int, *, heads: int, size: int) -> int | None:
        """How many numbers it keeps of a sample of so many tokens; None where there is no cache."""
        return None

    def extend(self, q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, step: Step) -> Tensor:
        """`forward`, in evaluation, for new tokens alone, whose q (B, H, S, D), k and v are; the cache has the others.

        Returns:
            (B, H, S, Dv), which means nothing where a sample has no new token.
        """
        raise NotImplementedError

    def scores(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        """The products of queries at `positions` (S,) and keys over sqrt(D), before they are bounded: (B, H, S, T)."""
        return scores_of(q, k, positions)

    def weights(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        """The attention weights of the queries at `positions` (S,), dense: (B, H, S, T).

        Rows sum to 1 or are 0, and with sinks to what these leave. The softmax over the visited keys; cores that weigh
        otherwise override it.
        """
        scores = scores_of(q, k, positions, self.slopes, self.softcap)
        return softmax_of(scores, by_query(self.sinks), self.visited(q, k, positions)).nan_to_num(0.0)


def by_query(sinks: Tensor | None) -> Tensor | None:
    """Sinks (H,) as the same for all queries, (H, 1)."""
    return None if sinks is None else sinks.unsqueeze(-1)


def softmax_of(scores: Tensor, sinks: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
    """The softmax of each row (..., T), zero where a row has nothing.

    Args:
        sinks: broadcastable to (...), a logit for each row that takes its share.
        seen: bool, broadcastable to the scores, those that take part; None: those above minus infinity.
    """
    if seen is not None and sinks is None:
        some = seen.any(-1, keepdim=True)
        hidden = torch.zeros_like(some, dtype=scores.dtype).masked_fill(
            some, -math.inf
        )  # a row of nothing stays finite
        return torch.where(seen, scores, hidden).softmax(-1) * some
    if seen is not None:
        scores = torch.where(seen, scores, -math.inf)
    if sinks is None:
        nothing = scores.detach().amax(-1, keepdim=True) == -math.inf
        return scores.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)
    logits = sinks.to(scores.dtype).expand(scores.shape[:-1]).unsqueeze(-1)
    return torch.cat([scores, logits], -1).softmax(-1)[..., :-1]


def bounded(scores: Tensor, softcap: float | None) -> Tensor:
    """cap tanh(scores / cap); the scores as they are without a cap."""
    return scores if softcap is None else softcap * (scores / softcap).tanh()


def scores_of(
    q: Tensor, k: Tensor, positions: Tensor, slopes: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """q k^T / sqrt(D) for the queries at `positions` (S,), with grouped heads of keys: (B, H, S, T).

    Args:
        slopes: (H,), of `AttentionCore.weigh_down`.
        softcap: bounds what the slopes are then taken from.
    """
    scores = products_of(q[:, :, positions], k) / math.sqrt(q.shape[-1])
    scores = bounded(scores, softcap)
    return scores if slopes is None else scores + tilt(slopes, positions, k.shape[2], scores.dtype)


def products_of(q: Tensor, k: Tensor) -> Tensor:
    """q k^T, (B, H, S, T), of q (B, H, S, D) and k (B, K, T, D) with K dividing H."""
    if q.shape[2] > 1 or q.shape[1] == k.shape[1]:
        return q @ repeat_heads(k, q.shape[1]).transpose(-1, -2)
    # The heads of a group stand where others have queries, so that keys are not copied for one query alone.
    group: Tensor = q.squeeze(2).unflatten(1, (k.shape[1], -1)) @ k.transpose(-1, -2)
    return group.flatten(1, 2).unsqueeze(2)


def tilt(slopes: Tensor, positions: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """-slopes[h] |i - j| for the queries i at `positions`, (S,) or (B, 1, S), and all keys j: (..., H, S, length)."""
    distance = (positions.unsqueeze(-1) - torch.arange(length, device=positions.device)).abs()
    return (-slopes[:, None, None] * distance).to(dtype)


def repeat_heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, K, T, D) -> (B, n_heads, T, D): each head of keys or values once for every query head that it serves."""
    return x if x.shape[1] == n_heads else x.repeat_interleave(n_heads // x.shape[1], dim=1)


def self_only_if_alone(mask: Tensor, positions: Tensor) -> Tensor:
    """Take each query's own key out of `mask` (..., S, T), except where the query would then have none."""
    own = positions[:, None] == torch.arange(mask.shape[-1], device=mask.device)
    others = mask & ~own
    return others | (~others.any(-1, keepdim=True) & own)
