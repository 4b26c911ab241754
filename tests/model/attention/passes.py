"""Passes of a layer that go on from its cache, and the same samples mixed whole, each by itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ablab.model.attention.cache import Step
from ablab.model.attention.layer import AttentionLayer
from ablab.model.context import LayerContext
from ablab.model.position import Position


def with_large_weights(layer: AttentionLayer) -> None:
    """Make it one in double precision and in evaluation, with weights by which what is wrong shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.double().parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.4 * noise if parameter.dim() > 1 else parameter + 0.1 * noise)
    layer.eval()


def whole(layer: AttentionLayer, x: Tensor, position: Position) -> Tensor:
    """One sample (T, d_model), mixed as a whole."""
    return layer.within(x.unsqueeze(0), LayerContext(rotate=position.rotate))[0]


def steps(lengths: Sequence[int], sizes: Sequence[int | Sequence[int]]) -> list[tuple[Step, list[int]]]:
    """Passes of at most so many tokens until all samples are whole, the last size again and again; and their counts.

    A list of sizes has one for each sample, as prompts of unequal lengths that all go on.
    """
    have = [0] * len(lengths)
    found: list[tuple[Step, list[int]]] = []
    while have != list(lengths):
        size = sizes[min(len(found), len(sizes) - 1)]
        each = [size] * len(lengths) if isinstance(size, int) else size
        counts = [min(some, length - before) for some, before, length in zip(each, have, lengths, strict=True)]
        place = torch.arange(max(counts))
        there = place < torch.tensor(counts)[:, None]
        step = Step(
            positions=torch.tensor(have)[:, None] + place,
            there=None if bool(there.all()) else there,
            before=have[0] if len(set(have)) == 1 else None,
            total=max(before + count for before, count in zip(have, counts, strict=True)),
        )
        found.append((step, counts))
        have = [before + count for before, count in zip(have, counts, strict=True)]
    return found


@torch.no_grad()
def error(
    layer: AttentionLayer,
    position: Position,
    lengths: Sequence[int],
    sizes: Sequence[int | Sequence[int]],
    width: int = 16,
) -> float:
    """The largest difference between passes of such sizes and samples of such lengths as wholes."""
    x = torch.randn(len(lengths), max(lengths), width, generator=torch.Generator().manual_seed(1)).double()
    cache = layer.new_cache(len(lengths), max(lengths))
    assert cache is not None
    parts: list[list[Tensor]] = [[] for _ in lengths]
    for step, counts in steps(lengths, sizes):
        # Where a sample has no token there is something all the same, which nobody is to see.
        new = x.gather(1, step.positions.clamp(max=x.shape[1] - 1)[..., None].expand(-1, -1, x.shape[2]))
        rotate = position.at(step.positions.clamp(max=max(lengths) - 1))
        mixed = layer.extend(new, LayerContext(rotate=rotate, step=step, key_padding_mask=step.padding), cache)
        for part, row, count in zip(parts, mixed, counts, strict=True):
            part.append(row[:count])
    wholes = [whole(layer, sample[:length], position) for sample, length in zip(x, lengths, strict=True)]
    return max((torch.cat(part) - one).abs().max().item() for part, one in zip(parts, wholes, strict=True))


def allocated(layer: AttentionLayer, capacity: int) -> int:
    """Numbers that a cache of one sample takes room for."""
    cache = layer.new_cache(1, capacity)
    assert cache is not None
    return cache.nbytes // next(layer.parameters()).element_size()
