"""Attention to what queries have chosen, by FlexAttention: the mask function reads the choice, a bit for each block.

What is visited is all that could be chosen, since a choice is new in every step: scores that are not chosen are
computed and hidden, in the kernel, and never written out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from ablab.model.attention.flex.call import MaskMod, attend, fused
from ablab.model.attention.flex.masks import Rule, block_mask
from ablab.model.attention.flex.rule import Scoring

WORD = 32  # bits
Near = Callable[[Tensor], Tensor]  # of distances, query minus key: whether a key is seen whatever is chosen


@fused
def packed(chosen: Tensor) -> Tensor:
    """bool (..., J) -> int32 (..., ceil(J / 32)), the first block in the lowest bit."""
    words = pad(chosen, (0, -chosen.shape[-1] % WORD)).unflatten(-1, (-1, WORD)).to(torch.int32)
    places = torch.arange(WORD, device=chosen.device, dtype=torch.int32)
    added: Tensor = (words << places).sum(-1, dtype=torch.int32)
    return added


@fused
def unpacked(words: Tensor, count: int) -> Tensor:
    """The inverse of `packed`, of so many blocks."""
    places = torch.arange(WORD, device=words.device, dtype=torch.int32)
    return ((words.unsqueeze(-1) >> places) & 1).bool().flatten(-2)[..., :count]


def attend_chosen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    words: Tensor,
    *,
    rule: Rule,
    size: int = 1,
    near: Near | None = None,
    there: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over the keys of chosen blocks that `rule` allows, and those `near`.

    Args:
        q: (B, H, S, D); k (B, K, T, D) and v (B, K, T, Dv) with K dividing H.
        words: `packed` choices (B, G, S, words), of each head of keys or of all together.
        size: keys of a block.
        there: (B, T) bool, false for keys that there are not.

    Returns:
        Output and log-sum-exp, as `ablab.model.attention.flex.rule.attend_by_rule` gives them.
    """
    served = q.shape[1] // words.shape[1]  # heads of queries for each that chooses
    seen = _seen(words.contiguous(), served, rule, size, near, there)
    blocks = block_mask(rule, q.shape[2], k.shape[2], q.device, alone=False)
    return attend(q, k, v, seen, block_mask=blocks, score_mod=Scoring(softcap=softcap).mod(q))


def _seen(
    words: Tensor, served: int, rule: Rule, size: int, near: Near | None, there: Tensor | None
) -> MaskMod:  # fmt: skip
    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        block = key // size
        found = ((words[batch, head // served, query, block // WORD] >> (block % WORD)) & 1) != 0
        found = found & rule(query, key)
        if near is not None:
            found = found | near(query - key)
        return found if there is None else found & there[batch, key]

    return seen
