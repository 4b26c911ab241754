"""Attention under a rule of positions by FlexAttention, with all that a softmax of this axis may have beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ablab.model.attention.base import bounded, repeat_heads
from ablab.model.attention.flex.call import MaskMod, ScoreMod, attend, fused
from ablab.model.attention.flex.masks import Rule, block_mask
from ablab.model.attention.kernel import working_dtype

LEAST = 1e-30  # the weight of a soft edge below which a key counts as not seen


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What becomes of a score: it is bounded, then falls with the distance, then comes a soft edge."""

    softcap: float | None = None
    slopes: Tensor | None = None  # (H,), as of `AttentionCore.weigh_down`
    spans: Tensor | None = None  # in tokens, (H,) or (B, H, S): see `ablab.model.attention.band.Edge`
    ramp: float = 1.0

    def mod(self, q: Tensor) -> ScoreMod | None:
        """The same as a function of indices, for queries q (B, H, S, D)."""
        softcap, spans, ramp = self.softcap, self.by_query(q), self.ramp
        slopes = None if self.slopes is None else self.slopes.to(working_dtype(q))
        if softcap is None and slopes is None and spans is None:
            return None

        def changed(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            score = bounded(score, softcap)
            if slopes is not None:
                score = score - slopes[head] * (query - key).abs()
            if spans is not None:
                weight = (ramp + spans[batch, head, query] - (query - key).abs()) / ramp
                score = score + weight.clamp(LEAST, 1).log()
            return score

        return changed

    def by_query(self, q: Tensor) -> Tensor | None:
        """The spans of all queries, (B, H, S): the gradient of each is summed up by itself, not all in one place."""
        if self.spans is None:
            return None
        spans = self.spans[None, :, None] if self.spans.dim() == 1 else self.spans
        return spans.to(working_dtype(q)).expand(q.shape[:3]).contiguous()


PLAIN = Scoring()


def attend_by_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: Rule,
    *,
    key_padding_mask: Tensor | None = None,
    scoring: Scoring = PLAIN,
) -> tuple[Tensor, Tensor]:
    """Attention over the keys that `rule` allows and that are no padding.

    Args:
        q: (B, H, S, D); k (B, K, T, D) and v (B, K, T, Dv) with K dividing H.
        key_padding_mask: (B, T) bool, true where there is no key.

    Returns:
        (B, H, S, Dv), zero where a query sees nothing, and the log-sum-exp (B, H, S), minus infinity there.
    """
    scoring = replace(scoring, spans=scoring.by_query(q))
    alone = key_padding_mask is None and scoring.spans is None
    mask = block_mask(rule, q.shape[2], k.shape[2], q.device, alone=alone)
    seen = _seen(rule, key_padding_mask, scoring.spans, scoring.ramp)
    return attend(q, k, v, seen, block_mask=mask, score_mod=scoring.mod(q))


def rule_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: Rule,
    *,
    key_padding_mask: Tensor | None = None,
    scoring: Scoring = PLAIN,
    sinks: Tensor | None = None,
    own_if_alone: bool = False,
) -> Tensor:
    """The same, with sinks (H,), and with a query's own key where it sees nothing, unless that is padded.

    Returns:
        (B, H, T, Dv).
    """
    out, lse = attend_by_rule(q, k, v, rule, key_padding_mask=key_padding_mask, scoring=scoring)
    if not own_if_alone:
        return with_sinks(out, lse, sinks)
    out, lse = with_own(out, lse, q, k, v, key_padding_mask, scoring.softcap)
    return with_sinks(out, lse, sinks)


@fused
def with_own(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Give queries that see nothing their own key, unless that is padded: output and log-sum-exp."""
    exact = working_dtype(q)
    products = (q.to(exact) * repeat_heads(k, q.shape[1]).to(exact)).sum(-1) / math.sqrt(q.shape[-1])
    own, values = bounded(products, softcap), repeat_heads(v, q.shape[1])
    alone = lse == -math.inf
    if key_padding_mask is not None:
        alone = alone & ~key_padding_mask[:, None]
    return torch.where(alone.unsqueeze(-1), values.to(out.dtype), out), torch.where(alone, own.to(lse.dtype), lse)


def with_sinks(out: Tensor, lse: Tensor, sinks: Tensor | None) -> Tensor:
    """What sinks (H,) leave of the output: one more key of each row, of value zero."""
    return out if sinks is None else _left(out, lse, sinks)


@fused
def _left(out: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    return out * (lse - sinks.to(lse.dtype).unsqueeze(-1)).sigmoid().unsqueeze(-1).to(out.dtype)


@fused
def merged(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """One softmax over the keys of both, which must be different ones; of queries that see none, nothing."""
    most = torch.maximum(lse, other_lse).detach()
    nothing = most == -math.inf
    shift = most.masked_fill(nothing, 0)
    first, second = (lse - shift).exp(), (other_lse - shift).exp()
    total = (first + second).masked_fill(nothing, 1)
    mixed = out * (first / total).unsqueeze(-1).to(out.dtype) + other * (second / total).unsqueeze(-1).to(out.dtype)
    return mixed, (total.log() + shift).masked_fill(nothing, -math.inf)


def _seen(rule: Rule, padding: Tensor | None, spans: Tensor | None, ramp: float) -> MaskMod:
    edge = None if spans is None else spans.detach()

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        found = rule(query, key)
        if padding is not None:
            found = found & ~padding[batch, key]
        if edge is not None:
            found = found & ((query - key).abs() < ramp + edge[batch, head, query])
        return found

    return seen
