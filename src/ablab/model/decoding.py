"""Passes through a causal transformer that go on from what earlier ones have kept, a token or a few at a time.

    decoder = Decoder(model, batch=2, capacity=100)
    logits = decoder.extend(prompts, counts)  # of unequal lengths, side by side
    logits = decoder.extend(chosen)  # (2, 1): a token more of each

What comes out is what `Transformer.forward` gives for the whole of each sample by itself, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from ablab.model.attention.cache import LayerCache, Step
from ablab.model.context import LayerContext
from ablab.model.transformer import Transformer


class Decoder:
    """A model, in evaluation, and what its layers keep of the samples so far.

    Where a layer has no cache, the tokens are kept, and each pass computes all of them again.

    Args:
        model: causal, over tokens, with an answer at every position.
        batch: samples.
        capacity: tokens that each sample can have; None: as many as the model takes.

    Attributes:
        caches: of each layer; none where each pass computes the whole sequence again.
        lengths: (B,) int64, tokens that each sample has.

    Raises:
        ValueError: the model answers otherwise, or takes no sequences that long.
    """

    def __init__(self, model: Transformer, *, batch: int, capacity: int | None = None) -> None:
        capacity = model.max_length if capacity is None else capacity
        _check(model, capacity)
        self.model, self.capacity = model, capacity
        device = model.head.weight.device
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self._before: int | None = 0  # tokens of each sample, where all have as many
        self._longest = 0
        self.caches = list(_caches(model, batch, capacity))
        self.fusion_cache = model.layer_fusion.new_cache(batch) if self.caches else None
        self._tokens = None if self.caches else torch.zeros(batch, capacity, dtype=torch.int64, device=device)

    @property
    def nbytes(self) -> int:
        """Of memory that is taken for what is kept, all samples together; of tokens alone where there are no caches."""
        if self._tokens is not None:
            return self._tokens.nbytes
        return sum(cache.nbytes for cache in (*self.caches, self.fusion_cache) if cache is not None)

    @torch.no_grad()
    def extend(self, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """Logits (B, S, vocab_size) of new tokens.

        Args:
            tokens: (B, S) int64.
            counts: (B,) int64 on the CPU, how many of them, the first ones, each sample has; the others are ignored,
                and their logits mean nothing. None: all have S.

        Raises:
            ValueError: a sample would have more tokens than there is room for.
        """
        step = self._step(tokens, counts)
        logits = self._again(tokens, step) if self._tokens is not None else self._onward(tokens, step)
        self.lengths = step.lengths
        self._before = step.before + tokens.shape[1] if step.alike and step.before is not None else None
        self._longest = step.total
        return logits

    def skip(self, count: int) -> None:
        """Count so many tokens of each sample as seen, with nothing kept of them: for measurements."""
        if self._before is None or self._longest + count > self.capacity:
            raise ValueError(f"cannot skip {count} tokens of {self.capacity}")
        self._before += count
        self._longest += count
        self.lengths = self.lengths + count

    def _step(self, tokens: Tensor, counts: Tensor | None) -> Step:
        size = tokens.shape[1]
        alike = counts is None or bool((counts == size).all())
        longest = self._longest + size if alike else int((self.lengths.cpu() + counts).max())
        if longest > self.capacity:
            raise ValueError(f"{longest} tokens are more than there is room for, {self.capacity}")
        place = torch.arange(size, device=tokens.device)
        there = None if alike or counts is None else place < counts.to(tokens.device)[:, None]
        return Step(positions=self.lengths[:, None] + place, there=there, before=self._before, total=longest)

    def _onward(self, tokens: Tensor, step: Step) -> Tensor:
        model = self.model
        # Where a sample has no token its position may lie behind the model's last.
        positions = step.positions if step.there is None else step.positions.clamp(max=model.max_length - 1)
        context = LayerContext(
            rotate=model.position.at(positions), key_padding_mask=step.padding, ids=tokens, step=step
        )
        streams = [model.ends.begin(model.dropout(model.position.add_at(model.embedding(tokens), positions)))]
        for (_, block), cache in zip(model.layers(), self.caches, strict=True):
            streams.append(block.extend(model.layer_fusion.feed(streams), context, cache))
        fused = model.layer_fusion.extend(model.read(streams), step, self.fusion_cache)
        return model.logits(model.norm(fused))

    def _again(self, tokens: Tensor, step: Step) -> Tensor:
        assert self._tokens is not None
        there = torch.ones_like(tokens, dtype=torch.bool) if step.there is None else step.there
        samples, places = there.nonzero(as_tuple=True)
        self._tokens[samples, step.positions[samples, places]] = tokens[samples, places]
        behind = torch.arange(step.total, device=tokens.device) >= step.lengths[:, None]
        logits = self.model(self._tokens[:, : step.total], behind if bool(behind.any()) else None)
        at = step.positions.clamp(max=step.total - 1)
        return cast(Tensor, logits.gather(1, at[..., None].expand(-1, -1, logits.shape[-1])))


def without_cache(model: Transformer) -> str | None:
    """A line where some layer has no cache, which names it; None where all have one."""
    for layer, block in model.layers():
        if block.attention.new_cache(1, 1) is None:
            core = getattr(block.attention, "core", block.attention)
            return (
                f"{type(core).__name__} (layer {layer}) has no cache: each new token computes the whole sequence again"
            )
    return None


def _caches(model: Transformer, batch: int, capacity: int) -> Iterator[LayerCache]:
    """One for each layer, or none at all."""
    caches = [block.attention.new_cache(batch, capacity) for _, block in model.layers()]
    if all(cache is not None for cache in caches):
        yield from cast(list[LayerCache], caches)


def _check(model: Transformer, capacity: int) -> None:
    if model.modalities or model.readout is not None or model.head.out_features != model.vocab_size:
        raise ValueError("the model has one answer for a whole input, or an input that is no text: it cannot go on")
    if not model.causal:
        raise ValueError("the model is not causal: what it says of a token hangs on those behind it")
    if not 1 <= capacity <= model.max_length:
        raise ValueError(
            f"room for {capacity} tokens: must lie in 1..{model.max_length}, which the model takes at most"
        )
