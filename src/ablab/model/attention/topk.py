"""Attention to the keys of highest score: the ideal that hashing and other ways of finding keys approximate.

After Gupta et al. 2021 (Memory-efficient Transformers via Top-k Attention), the slices of queries included.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor

from ablab.model.attention.base import DropoutPlace, Switches, by_query, scores_of, tilt
from ablab.model.attention.by_position import KeyValueCore, attend_to
from ablab.model.attention.cache import Step
from ablab.model.attention.dense import highest, recomputed, softmax_attention, unless_counted
from ablab.model.attention.gathered import listed
from ablab.model.attention.kernel import without_autocast
from ablab.model.attention.picked import GATHER_FROM, places
from ablab.model.spec import LayerSpec, require_at_least

SLICE = 2**22  # scores that are there at one time


class TopKAttention(KeyValueCore):
    """A query sees the `keys` keys of highest score, or all where there are fewer.

    Of keys with equal scores the later one is taken. The choice has no gradient; the softmax over what is chosen has.
    Every score is computed: time grows as T^2, as that of full attention. Memory grows as T, since a slice of queries
    is attended at a time, and again in the backward pass where there are many scores.

    Args:
        keys: at least 1.
    """

    by_head = True
    drops_weights = True
    takes_slopes = True

    def __init__(
        self,
        spec: LayerSpec,
        *,
        keys: int,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        share_qk: bool = False,
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__(spec, dropout=dropout, dropout_on=dropout_on, share_qk=share_qk, **switches)
        require_at_least(1, "keys", keys)
        self.keys = keys

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        B, H, T, _ = q.shape
        rows = max(1, unless_counted(SLICE, q.device) // (B * H * T))
        parts = []
        for start in range(0, T, rows):
            stop = min(start + rows, T)
            reach = stop if self.causal else T
            positions = torch.arange(start, stop, device=q.device)
            padding = None if key_padding_mask is None else key_padding_mask[:, :reach]
            given = (q[:, :, start:stop], k[:, :, :reach], v[:, :, :reach], by_query(self.sinks), positions, padding)
            parts.append(recomputed(self._attend_slice, *given, random=self._dropped() > 0, scores=B * H * T * T))
        return torch.cat(parts, dim=2)

    def attend_past(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, step: Step) -> Tensor:
        rows = max(1, SLICE // (q.shape[0] * q.shape[1] * k.shape[2]))
        few = q.shape[2] == 1 and self.keys * GATHER_FROM <= k.shape[2]
        attend = self._gather if few else self._attend_slice
        parts = []
        for start in range(0, q.shape[2], rows):
            own = slice(start, start + rows)
            at = places(step)[..., own]
            parts.append(attend(q[:, :, own], k, v, by_query(self.sinks), at, None))
        return torch.cat(parts, 2)

    def _gather(
        self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, positions: Tensor, padding: Tensor | None
    ) -> Tensor:
        """`_attend_slice` of one query of each sample by gathering what each of its heads chooses."""
        keys, chosen = listed(self._chosen(q, k, positions, padding), self.keys)  # (B, H, 1, keys)
        taken = keys.view(len(k), k.shape[1], -1, 1)
        k, v = (x.gather(2, taken.expand(-1, -1, -1, x.shape[-1])) for x in (k, v))
        k, v = (x.reshape(*q.shape[:2], self.keys, -1) for x in (k, v))
        return attend_to(self, q, k, v, chosen, positions.unsqueeze(-1), keys)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        return self._chosen(q[:, :, positions], k, positions, None)

    def _attend_slice(
        self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, positions: Tensor, padding: Tensor | None
    ) -> Tensor:
        mask = self._chosen(q, k, positions, padding)
        if self.slopes is not None:
            mask = torch.where(mask, tilt(self.slopes, positions, k.shape[2], q.dtype), -math.inf)
        return softmax_attention(q, k, v, mask=mask, dropout=self._dropped(), sinks=sinks, softcap=self.softcap)

    @torch.no_grad()
    def _chosen(self, q: Tensor, k: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        """(B, H, S, T), of queries (B, H, S, D) at `positions`, (S,) or (B, 1, S), keys and their padding (B, T)."""
        keys = torch.arange(k.shape[2], device=k.device)
        own = positions.unsqueeze(-1) == keys
        allowed = keys <= positions.unsqueeze(-1) if self.causal else torch.ones_like(own)
        if padding is not None:
            allowed = allowed & ~padding[:, None, None, :]
        with without_autocast(q.device):
            exact = torch.promote_types(q.dtype, torch.float32)
            every = torch.arange(q.shape[2], device=q.device)
            scores = scores_of(q.to(exact), k.to(exact), every, softcap=self.softcap)
            if self.slopes is not None:
                scores = scores + tilt(self.slopes, positions, k.shape[2], exact)
        if not self.share_qk:
            return highest(scores, allowed, self.keys)
        chosen = highest(scores, allowed & ~own, self.keys)
        return chosen | (allowed & own & ~chosen.any(-1, keepdim=True))

    def _dropped(self) -> float:
        return self.dropout if self.training and self.dropout_on == "weights" else 0.0
