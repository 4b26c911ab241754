"""Attention by a fixed pattern of blocks of any size, by FlexAttention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from ablab.model.attention.flex.call import MaskMod, attend
from ablab.model.attention.flex.masks import coarser, extent, mask_of
from ablab.model.attention.flex.rule import PLAIN, Scoring


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which blocks of a sequence see which, and what is visited for it: made once for a length.

    Args:
        table: bool (n, n), on the device.
        size: tokens of a block.
        causal: a query sees no later key.
        own: whether a query sees its own key beside others.
        length: of the sequence.
    """

    table: Tensor
    size: int
    causal: bool
    own: bool
    alone: BlockMask  # where the pattern is all that says what is seen
    padded: BlockMask  # where padding says it, too

    @classmethod
    def of(cls, table: Tensor, size: int, causal: bool, own: bool, length: int) -> Pattern:
        """Of one length."""
        seen, places = table.cpu(), extent(length)
        some = coarser(seen, size, length, length)
        every = ~coarser(~seen, size, length, length)
        if causal:
            some = some & (places.first <= places.last[:, None])
            every = every & (places.last <= places.first[:, None])
        if not own:
            every.fill_diagonal_(False)
        masks = [mask_of(some, whole, length, length, table.device) for whole in (every, None)]
        return cls(table, size, causal, own, *masks)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None, scoring: Scoring = PLAIN
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp, as `ablab.model.attention.flex.rule.attend_by_rule` gives them."""
        blocks = self.alone if key_padding_mask is None else self.padded
        return attend(q, k, v, self._seen(key_padding_mask), block_mask=blocks, score_mod=scoring.mod(q))

    def _seen(self, padding: Tensor | None) -> MaskMod:
        table, size, causal, own = self.table, self.size, self.causal, self.own

        def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            found = table[query // size, key // size]
            if causal:
                found = found & (key <= query)
            if not own:
                found = found & (key != query)
            return found if padding is None else found & ~padding[batch, key]

        return seen


class Patterned(Protocol):
    """A core that has a pattern for each length."""

    def pattern(self, length: int, device: torch.device) -> Pattern: ...


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def pattern_of(core: Patterned, length: int, device: torch.device) -> Pattern:
    """Its pattern; in a graph that is compiled it is a constant."""
    return core.pattern(length, device)
