"""Passes through a causal transformer that go on from what earlier ones have kept, a token or a few at a time.

    decoder = Decoder(model, batch=2, capacity=100)
    logits = decoder.extend(prompts, counts)  # of unequal lengths, side by side
    logits = decoder.extend(chosen)  # (2, 1): a token more of each
    mark = decoder.mark()
    logits = decoder.extend(guessed)
    lengths = decoder.take_back(mark, kept)  # as if some of them had never been there

What comes out is what `Transformer.forward` gives for the whole of each sample by itself, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ablab.model.attention.cache import LayerCache, Step
from ablab.model.context import LayerContext
from ablab.model.transformer import Transformer


class Lengths:
    """How many tokens each sample has.

    Attributes:
        each: (B,) int64.
    """

    def __init__(self, batch: int, capacity: int, device: torch.device) -> None:
        self.capacity, self.each = capacity, torch.zeros(batch, dtype=torch.int64, device=device)
        self._longest = 0
        self._before: int | None = 0  # tokens of each sample, where all have as many

    def set(self, each: Tensor) -> None:
        """From now on samples have as many tokens as `each` says, on the CPU."""
        self.each = each.to(self.each.device)
        self._longest = int(each.max())
        self._before = self._longest if bool((each == self._longest).all()) else None

    def step(self, size: int, counts: Tensor | None) -> Step:
        """That of a pass with as many more tokens, `counts` (B,) of them on the CPU, or all `size`.

        Raises:
            ValueError: a sample would have more tokens than there is room for.
        """
        alike = counts is None or bool((counts == size).all())
        longest = self._longest + size if alike or counts is None else int((self.each.cpu() + counts).max())
        if longest > self.capacity:
            raise ValueError(f"{longest} tokens are more than there is room for, {self.capacity}")
        place = torch.arange(size, device=self.each.device)
        there = None if alike or counts is None else place < counts.to(place.device)[:, None]
        return Step(positions=self.each[:, None] + place, there=there, before=self._before, total=longest)

    def skip(self, count: int) -> None:
        """So many tokens more of each, without a pass."""
        if self._before is None or self._longest + count > self.capacity:
            raise ValueError(f"cannot skip {count} tokens of {self.capacity}")
        self._before += count
        self._longest += count
        self.each = self.each + count

    def reach(self, step: Step) -> None:
        """The pass is done."""
        self.each, self._longest = step.lengths, step.total
        self._before = step.total if step.alike else None


@dataclass(frozen=True)
class Mark:
    """What is needed to take tokens back: how many each sample had, (B,) on the CPU, and copies of caches, by their
    place, that cannot forget otherwise."""

    lengths: Tensor
    copies: dict[int, list[Tensor]]


class Decoder:
    """A model, in evaluation, and what its layers keep of the samples so far.

    Where a layer has no cache, the tokens are kept, and each pass computes all of them again.

    Args:
        model: causal, over tokens, with an answer at every position.
        batch: samples.
        capacity: tokens that each sample can have; None: as many as the model takes.

    Attributes:
        caches: of each layer; none where each pass computes the whole sequence again.

    Raises:
        ValueError: the model answers otherwise, or takes no sequences that long.
    """

    def __init__(self, model: Transformer, *, batch: int, capacity: int | None = None) -> None:
        capacity = model.max_length if capacity is None else capacity
        require_continuable(model)
        _check(model, capacity)
        self.model, self.capacity = model, capacity
        device = model.head.weight.device
        self._lengths = Lengths(batch, capacity, device)
        self.caches = list(_caches(model, batch, capacity))
        self.fusion_cache = model.layer_fusion.new_cache(batch) if self.caches else None
        self._tokens = None if self.caches else torch.zeros(batch, capacity, dtype=torch.int64, device=device)

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, tokens that each sample has."""
        return self._lengths.each

    @property
    def nbytes(self) -> int:
        """Of memory that is taken for what is kept, all samples together; of tokens alone where there are no caches."""
        return sum(cache.nbytes for cache in self._kept) if self._tokens is None else self._tokens.nbytes

    def extend(self, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """Logits (B, S, vocab_size) of new tokens.

        Args:
            tokens: (B, S) int64.
            counts: (B,) int64 on the CPU, how many of them, the first ones, each sample has; the others are ignored,
                and their logits mean nothing. None: all have S.

        Raises:
            ValueError: a sample would have more tokens than there is room for.
        """
        with torch.no_grad():
            return self.model.logits(self.read(tokens, counts))

    def skip(self, count: int) -> None:
        """Count so many tokens of each sample as seen, with nothing kept of them: for measurements."""
        self._lengths.skip(count)

    @torch.no_grad()
    def read(self, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """As `extend`, but what the head makes the logits of, (B, S, d_model)."""
        step = self._lengths.step(tokens.shape[1], counts)
        hidden = self._again(tokens, step) if self._tokens is not None else self._onward(tokens, step)
        self._lengths.reach(step)
        return hidden

    def mark(self) -> Mark:
        """What `take_back` needs; to be asked for before the pass whose tokens may be taken back."""
        bound = (place for place, cache in enumerate(self._kept) if not cache.places(self.capacity))
        return Mark(self.lengths.cpu(), {place: self._kept[place].mark() for place in bound})

    def take_back(self, mark: Mark, lengths: Tensor) -> Tensor:
        """Let samples have the first `lengths` (B,) tokens alone, of those that they have, at least those of the mark.

        Returns:
            (B,) int64 on the CPU, how many they have now. Where caches cannot let go of single tokens it is as many as
            at the mark, and the others up to `lengths` are to be given again, with the next ones.
        """
        shorter = lengths < self.lengths.cpu()
        for place, copies in mark.copies.items():
            self._kept[place].restore(copies, shorter.nonzero()[:, 0].to(self.lengths.device))
        now = torch.where(shorter, mark.lengths, lengths) if mark.copies else lengths
        self._lengths.set(now)
        return now

    @property
    def _kept(self) -> Sequence[LayerCache]:
        return self.caches if self.fusion_cache is None else [*self.caches, self.fusion_cache]

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
        return cast(Tensor, model.norm(fused))

    def _again(self, tokens: Tensor, step: Step) -> Tensor:
        assert self._tokens is not None
        there = torch.ones_like(tokens, dtype=torch.bool) if step.there is None else step.there
        samples, places = there.nonzero(as_tuple=True)
        self._tokens[samples, step.positions[samples, places]] = tokens[samples, places]
        behind = torch.arange(step.total, device=tokens.device) >= step.lengths[:, None]
        model, whole = self.model, self._tokens[:, : step.total]
        x, mask = model.enter(whole, behind if bool(behind.any()) else None)
        streams = model.through(range(len(model.blocks)), [model.ends.begin(x)], model.context(whole, mask))
        at = step.positions.clamp(max=step.total - 1)
        hidden = model.hidden(streams, mask)
        return hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))


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


def require_continuable(model: Transformer) -> None:
    """Raises ValueError where the model cannot say how a text goes on."""
    if model.modalities or model.readout is not None or model.head.out_features != model.vocab_size:
        raise ValueError("the model has one answer for a whole input, or an input that is no text: it cannot go on")
    if not model.causal:
        raise ValueError("the model is not causal: what it says of a token hangs on those behind it")


def _check(model: Transformer, capacity: int) -> None:
    if not 1 <= capacity <= model.max_length:
        raise ValueError(
            f"room for {capacity} tokens: must lie in 1..{model.max_length}, which the model takes at most"
        )
