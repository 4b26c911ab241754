"""A window of tokens and entries that stand for those before, in one softmax, by FlexAttention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ablab.model.attention.base import scores_of
from ablab.model.attention.dense import at_once, highest, recomputed
from ablab.model.attention.flex.call import fused
from ablab.model.attention.flex.chosen import attend_chosen, packed, unpacked
from ablab.model.attention.flex.rule import Scoring, attend_by_rule, merged, with_sinks
from ablab.model.attention.indexer import divergence, index_scores
from ablab.model.attention.kernel import working_dtype

if TYPE_CHECKING:
    from ablab.model.attention.compressed_core import CompressedCore

SLICE = 2**22  # scores that are there at one time, of the choice and of what an index learns


def entries_attention(
    core: CompressedCore,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    padding: Tensor | None,
    entries: Tensor,
    there: Tensor,
    *index: Tensor,
    warming: bool,
) -> tuple[Tensor, Tensor]:
    """The output, and what the index loses (B, T): two calls, merged. Arguments are those of the core's `forward`."""
    scoring = Scoring(softcap=core.softcap)
    near = attend_by_rule(q, k, v, core.near, key_padding_mask=padding, scoring=scoring)
    if not index or core.keys is None or warming:
        words = None
        far = attend_by_rule(q, entries, entries, core.past, key_padding_mask=~there, scoring=scoring)
    else:
        words = _chosen_words(core, there, *index)
        far = attend_chosen(q, entries, entries, words, rule=core.past, there=there, softcap=core.softcap)
    out, lse = merged(*near, *far)
    lost = q.new_zeros(q.shape[0], q.shape[2])
    if index and torch.is_grad_enabled():
        lost = _lost(core, q.detach(), lse.detach(), entries.detach(), there, words, *index)
    return with_sinks(out, lse, core.sinks), lost


def _rows(q: Tensor, heads: int, count: int) -> list[slice]:
    rows = max(1, at_once(SLICE, q.device) // (len(q) * heads * count))
    return [slice(start, start + rows) for start in range(0, q.shape[2], rows)]


@torch.no_grad()
def _chosen_words(core: CompressedCore, there: Tensor, q: Tensor, weight: Tensor, k: Tensor) -> Tensor:
    """The entries that the index picks for all queries, `packed`, (B, 1, T, words)."""
    positions, parts = torch.arange(q.shape[2], device=q.device), []
    for own in _rows(q, q.shape[1], k.shape[2]):
        parts.append(_choose(core, positions[own], there, q[:, :, own], weight[:, :, own], k))
    return torch.cat(parts, 1).unsqueeze(1)


@fused
def _choose(core: CompressedCore, positions: Tensor, there: Tensor, *index: Tensor) -> Tensor:
    assert core.keys is not None
    return packed(highest(index_scores(*index), core.allowed(positions, there), core.keys))


def _lost(
    core: CompressedCore,
    q: Tensor,
    lse: Tensor,
    entries: Tensor,
    there: Tensor,
    words: Tensor | None,
    *index: Tensor,
) -> Tensor:
    if core.sinks is not None:
        lse = torch.logaddexp(lse, core.sinks.detach().to(lse.dtype).unsqueeze(-1))
    positions, parts = torch.arange(q.shape[2], device=q.device), []
    for own in _rows(q, q.shape[1], entries.shape[2]):
        chosen = core.allowed(positions[own], there) if words is None else unpacked(words[:, 0, own], there.shape[1])
        given = core.softcap, q[:, :, own], lse[:, :, own], entries, chosen
        parts.append(recomputed(_lost_by, *given, index[0][:, :, own], index[1][:, :, own], index[2]))
    return torch.cat(parts, 1)


@fused
def _lost_by(
    softcap: float | None, q: Tensor, lse: Tensor, entries: Tensor, chosen: Tensor, *index: Tensor
) -> Tensor:  # fmt: skip
    """What the index loses of a slice of queries, (B, S), whose attention had log-sum-exps `lse`."""
    with torch.no_grad():
        every = torch.arange(q.shape[2], device=q.device)
        products = scores_of(q, entries, every, softcap=softcap).to(working_dtype(q))
        weights = (products - lse.unsqueeze(-1)).masked_fill(~chosen.unsqueeze(1), float("-inf")).exp()
    return divergence(index_scores(*index), weights, chosen)
