"""Tokens that are guessed by the modules of a multi-token objective, for the model itself to verify.

The modules are those of `ablab.model.objective.multi_token`, one behind the other. With n tokens known, the last of
which the model has not yet seen, module k makes of position i what is known of it and of token i + k:

    h^k_i = Block_k(M_k [norm(h^{k-1}_i); norm(emb(t_{i+k}))]),   i = 0..n-2,

and guesses the token behind the last of them, i + k + 1 = n - 1 + k, of which module k + 1 makes more (DeepSeek-V3,
arXiv 2412.19437, sections 2.2 and 5.4.3). Positions all of whose tokens are known go into the modules' caches; the last
few, whose tokens are guessed themselves, are computed and taken out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ablab.model.attention.cache import LayerCache, Step
from ablab.model.context import LayerContext
from ablab.model.decoding import Lengths
from ablab.model.objective.multi_token import DepthModule, MultiToken
from ablab.model.transformer import Transformer

Range = tuple[int, int]  # of positions, from the first to before the last


class Drafter:
    """Guesses the next tokens of samples.

    Args:
        depth: tokens that are guessed at a time; at most as many as the model has modules.
        capacity: tokens that a sample can have.

    Raises:
        ValueError: the model has no modules, or fewer, or a layer of theirs has no cache.
    """

    def __init__(self, model: Transformer, *, batch: int, capacity: int, depth: int) -> None:
        self.model, self.depth = model, depth
        self.modules = _modules(model)[:depth]
        if depth > len(self.modules):
            raise ValueError(f"the model guesses {len(self.modules)} tokens ahead at most, by its objective's modules")
        self.caches = [_cache(module, batch, capacity) for module in self.modules]
        like = model.head.weight
        self._lengths = Lengths(batch, capacity, like.device)
        self._hidden = like.new_zeros(batch, capacity, like.shape[1])

    def see(self, hidden: Tensor, starts: Sequence[int], counts: Sequence[int]) -> None:
        """Take what the head reads (B, S, d_model) at the positions of a pass, the first `counts` from `starts` on."""
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            self._hidden[row, start : start + count] = hidden[row, :count]

    @torch.no_grad()
    def draft(self, known: Sequence[Sequence[int]]) -> list[list[int]]:
        """The likeliest `depth` next tokens of each sample, of all of its tokens; none of one that is given as empty.

        The model has seen all but the last of them.
        """
        starts = self._lengths.each.tolist()
        ends = [max(len(tokens) - 1, start) for tokens, start in zip(known, starts, strict=True)]
        firm = [max(end - self.depth + 1, start) for end, start in zip(ends, starts, strict=True)]
        parts = [list(zip(starts, firm, strict=True)), list(zip(firm, ends, strict=True))]
        hidden = [self._rows(part) for part in parts]
        steps = [self._step(parts[0], advance=True), self._step(parts[1], advance=False)]
        drafts: list[list[int]] = [[] for _ in known]
        for k, (module, cache) in enumerate(zip(self.modules, self.caches, strict=True), 1):
            tokens = [[*each, *draft] for each, draft in zip(known, drafts, strict=True)]
            hidden[0] = self._extend(module, cache, hidden[0], parts[0], steps[0], tokens, k)
            mark = None if cache.places(self._lengths.capacity) or steps[1] is None else cache.mark()
            hidden[1] = self._extend(module, cache, hidden[1], parts[1], steps[1], tokens, k)
            if mark is not None:
                cache.restore(mark, torch.arange(len(known), device=self._hidden.device))
            guesses = self._logits(module, hidden, parts).argmax(-1).tolist()
            for draft, guess, each in zip(drafts, guesses, known, strict=True):
                if each:
                    draft.append(guess)
        return drafts

    def _rows(self, part: Sequence[Range]) -> Tensor:
        """What is known of these positions of each sample, (B, S, d_model)."""
        size = max(end - start for start, end in part)
        rows = self._hidden.new_zeros(len(part), size, self._hidden.shape[2])
        for row, (start, end) in enumerate(part):
            rows[row, : end - start] = self._hidden[row, start:end]
        return rows

    def _step(self, part: Sequence[Range], *, advance: bool) -> Step | None:
        counts = torch.tensor([end - start for start, end in part])
        if not counts.any():
            return None
        step = self._lengths.step(int(counts.max()), counts)
        if advance:
            self._lengths.reach(step)
        return step

    def _extend(
        self,
        module: DepthModule,
        cache: LayerCache,
        hidden: Tensor,
        part: Sequence[Range],
        step: Step | None,
        tokens: Sequence[Sequence[int]],
        ahead: int,
    ) -> Tensor:
        if step is None:
            return hidden
        model, size = self.model, hidden.shape[1]
        ids = torch.zeros(len(part), size, dtype=torch.int64)
        for row, (start, end) in enumerate(part):
            ids[row, : end - start] = torch.tensor(tokens[row][start + ahead : end + ahead], dtype=torch.int64)
        ids = ids.to(hidden.device)
        positions = step.positions.clamp(max=model.max_length - 1)
        context = LayerContext(rotate=model.position.at(positions), key_padding_mask=step.padding, ids=ids, step=step)
        return module.extend(hidden, model.embedding(ids), context, cache)

    def _logits(self, module: DepthModule, hidden: Sequence[Tensor], parts: Sequence[Sequence[Range]]) -> Tensor:
        """Of a module at the last position of each sample, (B, V)."""
        rows = []
        for row, (firm, guessed) in enumerate(zip(*parts, strict=True)):
            part = int(guessed[1] > guessed[0])  # the one that has the last position
            start, end = (firm, guessed)[part]
            rows.append(hidden[part][row, end - start - 1] if end > start else self._hidden[row, 0])
        return self.model.logits(module.norm(torch.stack(rows)))


def depths(model: Transformer) -> int:
    """How many tokens a model can guess behind the next one."""
    return len(_modules(model))


def _modules(model: Transformer) -> list[DepthModule]:
    if not isinstance(model.objective, MultiToken):
        return []
    return [cast(DepthModule, module) for module in model.objective.depths]


def _cache(module: DepthModule, batch: int, capacity: int) -> LayerCache:
    cache = module.block.attention.new_cache(batch, capacity)
    if cache is None:
        raise ValueError("the attention of the objective's modules has no cache: they cannot guess token by token")
    return cache
