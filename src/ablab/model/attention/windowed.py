"""Attention within a sliding window (Beltagy et al. 2020, Longformer, section 3.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from ablab.model.attention.base import (
    DropoutPlace,
    Switches,
    by_query,
    repeat_heads,
    self_only_if_alone,
    tilt,
)
from ablab.model.attention.by_position import PositionalCore
from ablab.model.attention.dense import DENSE_BELOW, dense_attention, softmax_attention
from ablab.model.attention.flex.call import wanted
from ablab.model.attention.flex.masks import shared
from ablab.model.attention.flex.rule import Scoring, rule_attention
from ablab.model.attention.local import Local
from ablab.model.attention.operators import sparse_attention
from ablab.model.spec import LayerSpec, require_at_least


class WindowedAttention(PositionalCore):
    """Where causal, a query sees the `window` keys up to and including itself; where not, also `window` on either side.

    Time and memory grow as T times window. Where the window holds the whole sequence it is full attention.

    Args:
        window: in keys, at least 1; or one for each layer, from the embedding up (section 3.1: "small window sizes for
            the lower layers", larger ones above).
        global_tokens: the first tokens, seen by every query and seeing every key (earlier ones only, where causal).
        dilation: the window takes every `dilation`-th key, counted from the query's own (section 3.1, "Dilated Sliding
            Window"), so that it reaches `dilation` times as far.
    """

    by_head = True
    takes_slopes = True
    dense_mask: Tensor

    def __init__(
        self,
        spec: LayerSpec,
        *,
        window: int | list[int],
        global_tokens: int = 0,
        dilation: int = 1,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        share_qk: bool = False,
        **switches: Unpack[Switches],
    ) -> None:
        super().__init__(spec, dropout=dropout, dropout_on=dropout_on, share_qk=share_qk, **switches)
        window = _of_layer(window, spec)
        require_at_least(1, "window", window)
        require_at_least(0, "global_tokens", global_tokens)
        require_at_least(1, "dilation", dilation)
        local = Local(
            back=window - 1 if spec.causal else window,
            ahead=0 if spec.causal else window,
            own=not share_qk,
            dilation=dilation,
            global_tokens=global_tokens,
        )
        self.local = shared(local)
        shorter = min(max(DENSE_BELOW - 1, 0), spec.max_length)
        positions = torch.arange(shorter)
        mask = self.local(positions[:, None], positions)
        self.register_buffer("dense_mask", mask, persistent=False)

    def sees(self, query: Tensor, key: Tensor) -> Tensor | None:
        return replace(self.local, own=True)(query, key)

    def keeps(self, length: int) -> tuple[int, int]:
        """What the window reaches, the own token included, and the global tokens."""
        reach = self.local.back * self.local.dilation + 1
        return min(length, self.local.global_tokens + reach), min(length, self.local.global_tokens)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        T = q.shape[2]
        everything = self.local.dilation == 1 and self.local.back >= T - 1
        plain = not self.share_qk and key_padding_mask is None and self.slopes is None
        if everything and plain and (self.softcap is None or not wanted(q)):  # PyTorch's fused kernels know no cap
            return softmax_attention(q, k, v, causal=self.causal, sinks=by_query(self.sinks), softcap=self.softcap)
        if T < DENSE_BELOW:
            mask = self.dense_mask[:T, :T]
            bias = None
            if self.slopes is not None:
                bias = tilt(self.slopes, torch.arange(T, device=q.device), T, q.dtype)
            return dense_attention(
                q, k, v, mask, key_padding_mask,
                own_if_alone=self.share_qk, bias=bias, sinks=self.sinks, softcap=self.softcap,
            )  # fmt: skip
        if wanted(q):
            return rule_attention(
                q, k, v, self.local, key_padding_mask=key_padding_mask, sinks=self.sinks, own_if_alone=self.share_qk,
                scoring=Scoring(softcap=self.softcap, slopes=self.slopes),
            )  # fmt: skip
        return sparse_attention(
            q,
            repeat_heads(k, q.shape[1]),
            repeat_heads(v, q.shape[1]),
            local=self.local,
            slopes=self.slopes,
            sinks=self.sinks,
            softcap=self.softcap,
            key_padding_mask=key_padding_mask,
            own_if_alone=self.share_qk,
        )

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        mask = self.local(positions[:, None], torch.arange(k.shape[2], device=positions.device))
        return self_only_if_alone(mask, positions) if self.share_qk else mask


def _of_layer(window: int | list[int], spec: LayerSpec) -> int:
    if isinstance(window, int):
        return window
    if len(window) != spec.n_layers:
        raise ValueError(f"window={window}: give one for each of the {spec.n_layers} layers, or one for all")
    return window[spec.layer_index]
