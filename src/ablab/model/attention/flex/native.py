"""The compressed and the selected branch of native sparse attention, by FlexAttention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ablab.model.attention.dense import at_once
from ablab.model.attention.flex.call import fused
from ablab.model.attention.flex.chosen import attend_chosen, packed
from ablab.model.attention.flex.masks import CAUSAL, EVERYTHING
from ablab.model.attention.flex.rule import Scoring, rule_attention, with_sinks

if TYPE_CHECKING:
    from ablab.model.attention.nsa_core import NativeSparseCore

SLICE = 2**22  # scores of the choice that are there at one time


def native_blocks(
    core: NativeSparseCore, q_c: Tensor, q_s: Tensor, k_c: Tensor, v_c: Tensor, k_s: Tensor, v_s: Tensor, there: Tensor
) -> Tensor:
    """Both, side by side: a call for each, and between them the choice."""
    some = core.compress_key.some(there, core.causal)
    compressed = rule_attention(
        q_c, k_c, v_c, core.past, key_padding_mask=~some, scoring=Scoring(softcap=core.softcap), sinks=core.sinks
    )
    out, lse = attend_chosen(
        q_s, k_s, v_s, _chosen_words(core, q_c, k_c, there), rule=CAUSAL if core.causal else EVERYTHING,
        size=core.select_block, there=there, softcap=core.softcap,
    )  # fmt: skip
    return torch.cat([compressed, with_sinks(out, lse, core.sinks)], dim=-1)


@torch.no_grad()
def _chosen_words(core: NativeSparseCore, q: Tensor, k: Tensor, there: Tensor) -> Tensor:
    """The blocks that all queries select, `packed`, (B, K, T, words)."""
    rows, parts = max(1, at_once(SLICE, q.device) // (len(q) * q.shape[1] * k.shape[2])), []
    for start in range(0, q.shape[2], rows):
        positions = torch.arange(start, min(start + rows, q.shape[2]), device=q.device)
        parts.append(_choose(core, q[:, :, start : start + rows], k, positions, there))
    return torch.cat(parts, 2)


@fused
def _choose(core: NativeSparseCore, q: Tensor, k: Tensor, positions: Tensor, there: Tensor) -> Tensor:
    seen = core.compress_key.seen(positions, there, core.causal)
    return packed(core.choose(q, k, core.sinks, seen, positions, there))
