"""Local and hashed attention by FlexAttention: `ablab.model.attention.operators.sparse_attention` on CUDA."""

from __future__ import annotations

from torch import Tensor

from ablab.model.attention.buckets import Buckets
from ablab.model.attention.flex.rule import Scoring, attend_by_rule, with_own, with_sinks
from ablab.model.attention.flex.sorted import hashed_attention
from ablab.model.attention.local import Local, Spans


def flex_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    local: Local | None = None,
    spans: Spans | None = None,
    buckets: Buckets | None = None,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
    key_padding_mask: Tensor | None = None,
    own_if_alone: bool = False,
) -> Tensor:
    """One softmax over all keys that `local` and `buckets` bring, which must be different ones: a call for each.

    Args:
        q: (B, H, T, D); k (B, K, T, D) and v (B, K, T, Dv) with K dividing H. The rest is as of `sparse_attention`,
            except that buckets of keys are those of the K heads.

    Returns:
        (B, H, T, Dv), zero where a query sees nothing.
    """
    found = None
    if local is not None:
        tokens, ramp = (None, 1.0) if spans is None else (spans.tokens, spans.ramp)
        scoring = Scoring(softcap=softcap, slopes=slopes, spans=tokens, ramp=ramp)
        found = attend_by_rule(q, k, v, local, key_padding_mask=key_padding_mask, scoring=scoring)
    if buckets is not None:
        found = hashed_attention(q, k, v, buckets, slopes=slopes, softcap=softcap, beside=found)
    assert found is not None
    if own_if_alone:
        found = with_own(*found, q, k, v, key_padding_mask, softcap)
    return with_sinks(*found, sinks)
