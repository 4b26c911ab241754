"""Windows of tokens made into one entry each, by a softmax over their tokens (DeepSeek-V4, section 2.3)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ablab.model.attention.block_cache import BlockStep
from ablab.model.attention.cache import Step
from ablab.model.attention.entry_cache import EntryCache, sums_of
from ablab.model.attention.indexer import Index, require_rotated
from ablab.model.attention.kernel import without_autocast, working_dtype
from ablab.model.attention.projections import HeadNorm, split_heads
from ablab.model.position import Rope
from ablab.model.spec import LayerSpec, require_at_least


class Compressor(nn.Module):
    """Makes an entry of each window of `block` tokens: each of its features is a mean of the tokens' features.

    A token weighs by a softmax over the window of a projection of it and a bias of its place (equations 9 to 12 and 20
    to 23). With `overlap` a token has two contents, one for the entry of its own window and one for the entry of the
    next, so that an entry is a mean over the tokens of two windows. Entries are normalised, and rotated as the first
    token of their own window.

    A token that is padding weighs nothing. The last window may be cut short; where causal nobody sees it then.

    Args:
        size: D, coordinates of an entry.
        block: tokens of a window, at least 1.
        rope: rotates the trailing coordinates.
    """

    parameter_groups: ClassVar = {"place": "not_decayed"}  # as any table of positions
    summed_over: ClassVar = {"place": ()}

    def __init__(self, spec: LayerSpec, *, size: int, block: int, overlap: bool, rope: Rope) -> None:
        super().__init__()
        require_at_least(1, "attention.block", block)
        self.size, self.block, self.overlap = size, block, overlap
        width = (2 if overlap else 1) * size
        self.content = nn.Linear(spec.d_model, width, bias=False)
        self.gate = nn.Linear(spec.d_model, width, bias=False)
        self.place = nn.Parameter(torch.zeros(block, width))
        self.norm = HeadNorm(size, eps=1e-6)
        self.rope = rope

    def forward(self, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, d_model), and where there are tokens, bool (B, T): entries (B, 1, N, D), and which there are (B, N).

        N windows cover the sequence; those without any token of their own have no entry.
        """
        content, gate = (self._windows(project(x)) for project in (self.content, self.gate))
        there = self._windows(there.unsqueeze(-1))  # (B, N, block, 1)
        with without_autocast(x.device):
            exact = working_dtype(x)
            content, gate = content.to(exact).masked_fill(~there, 0), gate.to(exact) + self.place.to(exact)
            none = torch.finfo(exact).min
            gate = gate.masked_fill(~there, none)
            if self.overlap:
                content, gate = self._with_last(content, 0.0), self._with_last(gate, none)
            entries = (gate.softmax(2) * content).sum(2)
        normed = self.norm(entries).to(x.dtype).unsqueeze(1)
        return turned(normed, self.rope, stride=self.block), there.any(2).squeeze(-1)

    def new_cache(self, batch: int, capacity: int) -> EntryCache:
        """An empty one, for so many tokens of each of so many samples."""
        return EntryCache(batch, capacity, size=self.size, block=self.block, overlap=self.overlap, like=self.place)

    def cache_numbers(self, length: int) -> int:
        """How many numbers it keeps of a sample of so many tokens."""
        return EntryCache.numbers(length, size=self.size, block=self.block, overlap=self.overlap, like=self.place)

    def extend(self, x: Tensor, cache: EntryCache, step: Step) -> Tensor:
        """Take in new tokens x (B, S, d_model); the entries of all windows that are past, (B, 1, N, D)."""
        within = BlockStep(step, self.block)
        content, gate = (within.cut(project(x).unsqueeze(1)).squeeze(1) for project in (self.content, self.gate))
        with without_autocast(x.device):
            exact = working_dtype(x)
            gate = gate.to(exact) + self.place.to(exact)
            sums = cache.extend(sums_of(content.to(exact), gate, within.there), within)
        past = within.past
        if past is not None:
            normed = self.norm(sums[:, 1, : past.positions.shape[1]]).to(x.dtype).unsqueeze(1)
            cache.entries.write(turned_at(normed, self.rope, past.positions * self.block), past)
        return cache.entries.tensor[:, :, : step.total // self.block]

    def _windows(self, x: Tensor) -> Tensor:
        """(B, T, W) -> (B, N, block, W), zeros behind the end."""
        windows: Tensor = pad(x, (0, 0, 0, -x.shape[1] % self.block)).unflatten(1, (-1, self.block))
        return windows

    def _with_last(self, x: Tensor, fill: float) -> Tensor:
        """(B, N, block, 2 D) -> (B, N, 2 block, D): the first halves of the window before, the second of its own."""
        first, second = x.split(self.size, -1)
        return torch.cat([pad(first, (0, 0, 0, 0, 1, 0), value=fill)[:, :-1], second], 2)


def turned(x: Tensor, rope: Rope, *, stride: int = 1, back: bool = False) -> Tensor:
    """x (B, heads, T, D) with its trailing coordinates rotated, as many as the rotation has."""
    plain, turning = _split(x, rope)
    return torch.cat([plain, rope.turn(turning, stride=stride, back=back)], -1)


def turned_at(x: Tensor, rope: Rope, positions: Tensor, *, back: bool = False) -> Tensor:
    """`turned`, of x at `positions` (B, T), which may lie beyond the model's last where nothing is."""
    plain, turning = _split(x, rope)
    return torch.cat([plain, rope.turn_at(turning, positions.clamp(max=len(rope.cos) - 1), back=back)], -1)


def _split(x: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    plain, turning = x.split([x.shape[-1] - rope.cos.shape[-1], rope.cos.shape[-1]], -1)
    return plain, turning


class EntryIndexer(nn.Module):
    """A lightning indexer whose keys are entries of a compressor of its own (equations 13 to 17).

    Args:
        heads: at least 1.
        size: coordinates of each, at least as many as are rotated.
        inputs: width of what its queries are made of.
    """

    def __init__(self, spec: LayerSpec, *, heads: int, size: int, inputs: int, block: int, rope: Rope) -> None:
        super().__init__()
        require_at_least(1, "attention.index_heads", heads)
        require_rotated(size, rope)
        self.head_size, self.scale = size, (heads * size) ** -0.5
        self.query = nn.Linear(inputs, heads * size, bias=False)
        self.compressor = Compressor(spec, size=size, block=block, overlap=True, rope=rope)
        self.weight = nn.Linear(spec.d_model, heads, bias=False)

    def forward(self, x: Tensor, latent: Tensor, there: Tensor) -> Index:
        """The index of x (B, T, d_model) and what queries are made of (B, T, inputs), of which it keeps no graph."""
        x, latent = x.detach(), latent.detach()
        q = turned(split_heads(self.query(latent), self.head_size), self.compressor.rope)
        k, _ = self.compressor(x, there)
        weight: Tensor = self.weight(x)
        return q, self.scale * weight.transpose(1, 2), k

    def extend(self, x: Tensor, latent: Tensor, cache: EntryCache, step: Step) -> Index:
        """`forward` for new tokens alone; the keys are those of all windows that are past."""
        q = turned_at(split_heads(self.query(latent), self.head_size), self.compressor.rope, step.positions)
        weight: Tensor = self.weight(x)
        return q, self.scale * weight.transpose(1, 2), self.compressor.extend(x, cache, step)
