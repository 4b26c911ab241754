"""Which blocks of keys a query chooses, by scores of one key for each block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ablab.model.attention.base import bounded, products_of
from ablab.model.attention.dense import highest
from ablab.model.attention.kernel import without_autocast


class Candidates(NamedTuple):
    """Of queries (S,) and blocks (J,): which may be chosen, which are in any case, and which have a score."""

    allowed: Tensor  # bool (B, 1, S, J)
    always: Tensor  # bool (S, J), or (B, 1, S, J) where samples differ
    scored: Tensor  # bool (B, 1, S, J), those of which a query sees every token that there is


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is chosen: `count` blocks of `block` tokens, among those that do not lie in the window as a whole.

    The first `first` blocks, and `local` of the last, the query's own included, are always among the chosen, if they
    may be chosen; where not causal, as many on the other side. The score of a block is that of one key for all of its
    tokens, some of which the query must not see unless the block is past: such a block is the query's own.

    Args:
        window: tokens that are seen anyway, the query's own included; not causal: so many on either side, and its own.
            0 for none.

    Raises:
        ValueError: a setting is out of its range.
    """

    block: int
    count: int
    first: int
    local: int
    window: int
    causal: bool

    def __post_init__(self) -> None:
        always = self.first + (self.local if self.causal else max(0, 2 * self.local - 1))
        if self.block > 1 and self.causal and self.local < 1:
            raise ValueError(
                "attention.local_blocks must be at least 1 with attention.granularity=block: a query sees a part of "
                "its own block, of which there is no score"
            )
        if always > self.count:
            raise ValueError(
                f"attention.keys={self.count * self.block} are fewer than attention.first_blocks={self.first} and "
                f"attention.local_blocks={self.local} take: at least {always * self.block}"
            )

    def candidates(self, positions: Tensor, some: Tensor) -> Candidates:
        """Of queries at `positions`, (S,) or (B, 1, S), and blocks that have some token, bool (B, J)."""
        index, at = torch.arange(some.shape[1], device=some.device), positions.unsqueeze(-1)
        starts, own = index * self.block, at // self.block
        ends = starts + self.block - 1
        always = (index < self.first) | ((index - own).abs() < self.local)
        if self.causal:
            outside, past = starts <= at - self.window, ends <= at
        else:
            inside = (starts >= at - self.window) & (ends <= at + self.window)
            outside, past = ~inside | (self.window == 0), torch.ones_like(inside)
        some = some[:, None, None, :]
        return Candidates(some & outside, always, some & past)

    def chosen(self, scores: Tensor, candidates: Candidates) -> Tensor:
        """Mark the chosen ones, of equal scores the later: scores (B, G, S, J) -> bool."""
        scores = scores.detach().masked_fill(candidates.always, float("inf"))
        return highest(scores, candidates.allowed, self.count)

    def near(self, distance: Tensor) -> Tensor:
        """Which keys at a distance (query minus key) are in the window."""
        if self.causal:
            return (distance >= 0) & (distance < self.window)
        return distance.abs() <= (self.window if self.window else -1)

    def around(self, positions: Tensor) -> Tensor:
        """Blocks that cover the windows of queries at `positions` (S,): (S, E), some beyond the sequence."""
        back, ahead = self._reach()
        return positions[:, None] // self.block + torch.arange(-back, ahead, device=positions.device)

    @property
    def slots(self) -> int:
        """Blocks that hold all that a query sees, at most."""
        return self.count + sum(self._reach())

    def _reach(self) -> tuple[int, int]:
        """Blocks of the window before the query's own, and from it on."""
        if not self.window:
            return 0, 0
        blocks = -(-(self.window - self.causal) // self.block)
        return blocks, 1 if self.causal else blocks + 1


def means(x: Tensor, there: Tensor, block: int) -> Tensor:
    """The mean of each block of x (B, K, T, D) over the tokens that there are (B, T): (B, K, J, D), zero without any.

    In single precision at least.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    if block == 1:
        return x.to(exact)
    present = in_blocks(there, block)  # (B, J, block)
    tokens = pad(x.to(exact), (0, 0, 0, -x.shape[2] % block)).unflatten(2, (-1, block))
    total = tokens.masked_fill(~present[:, None, :, :, None], 0).sum(3)
    mean: Tensor = total / present.sum(-1).clamp(min=1)[:, None, :, None]
    return mean


def in_blocks(there: Tensor, block: int) -> Tensor:
    """(..., T) -> (..., J, block), with false behind the end."""
    blocks: Tensor = pad(there, (0, -there.shape[-1] % block)).unflatten(-1, (-1, block))
    return blocks


@torch.no_grad()
def pooled_scores(q: Tensor, pooled: Tensor, scored: Tensor, softcap: float | None) -> Tensor:
    """Scores of blocks by their mean keys, one for each head of keys: (B, K, S, J).

    The logarithm of the softmax over the blocks that are `scored` (B, 1, S, J), whose shares are added up over the
    query heads of a group (native sparse attention, equation 10).

    Args:
        q: (B, H, S, D).
        pooled: (B, K, J, D) with K dividing H.
    """
    with without_autocast(q.device):
        scores: Tensor = products_of(q.to(pooled.dtype), pooled) * q.shape[-1] ** -0.5
        if q.shape[1] == pooled.shape[1]:
            return scores
        lowest = torch.finfo(scores.dtype).min
        shares = bounded(scores, softcap).masked_fill(~scored, lowest).log_softmax(-1)
        added: Tensor = shares.unflatten(1, (pooled.shape[1], -1)).logsumexp(2)
        return added
