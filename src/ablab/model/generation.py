"""Texts that a model continues, as tokens: several at a time, each as if it were alone.

    generation = Generation(model, prompts, max_new_tokens=100, sampler=Sampler(temperature=0.8))
    while generation.unfinished:
        for sample, tokens in enumerate(generation.step()):
            ...

Up to the model's `max_length` each pass computes the new tokens alone, by a `Decoder`. Beyond it the model sees the
last `max_length` tokens, whose positions begin at 0 again: what layers keep of them is then of no use, and each token
computes the whole window. Attention that hangs on how long a sequence is (hashing, say) goes as in one of `max_length`
tokens, as a model that was trained on such does, whatever other samples there are and however many tokens are to come.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ablab.model.attention.base import AttentionCore
from ablab.model.decoding import Decoder, Mark, require_continuable
from ablab.model.drafting import Drafter
from ablab.model.initialisation import keyed_generator
from ablab.model.sampling import GREEDY, Sampler, SettingError
from ablab.model.transformer import Transformer


@dataclass
class Effort:
    """What a generation has done so far, and how long it took in seconds; that of several can be added up.

    Attributes:
        read, read_s: tokens of prompts, in the first pass over them, which also gives a token of each.
        written, written_s: tokens that later passes gave.
        slid: whether a sample went beyond the model's `max_length`.
        passes: that verified guesses, one counted for each sample in it.
        drafted, accepted: guesses, and those that came true.
    """

    read: int = 0
    read_s: float = 0.0
    written: int = 0
    written_s: float = 0.0
    slid: bool = False
    passes: int = 0
    drafted: int = 0
    accepted: int = 0

    def add(self, other: Effort) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Generation:
    """Samples that are being continued, by a model in evaluation.

    Args:
        prompts: of each sample its tokens (T,), at least one.
        max_new_tokens: how many to add to each.
        generators: of the draws of each sample; None: as `generators` makes them for seed 0.
        eos: tokens behind which a sample ends.
        draft: tokens that the objective's modules guess at a time. They change no token that comes out, drawn or not:
            a guess is kept where it is what the sampler takes, with the draws that it would have had.

    Attributes:
        ids: of each sample its tokens so far, the prompt's first.

    Raises:
        ValueError: a value is out of its range, or the model cannot go on with a text, or make guesses.
    """

    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[Tensor],
        *,
        max_new_tokens: int,
        sampler: Sampler = GREEDY,
        generators: Sequence[torch.Generator] | None = None,
        eos: Collection[int] = (),
        draft: int = 0,
    ) -> None:
        require_continuable(model)
        if max_new_tokens < 0:
            raise SettingError("max_new_tokens", max_new_tokens, "must be at least 0")
        if draft < 0:
            raise SettingError("draft", draft, "must be at least 0")
        if any(prompt.numel() == 0 for prompt in prompts):
            raise ValueError("a prompt has no token: give at least one")
        if model.padding is not None and any(bool((prompt == model.padding).any()) for prompt in prompts):
            raise ValueError(f"a prompt has the token {model.padding}, which stands for none: leave it out")
        self.model, self.sampler, self.eos = model, sampler, eos
        self.ids: list[list[int]] = [prompt.tolist() for prompt in prompts]
        self.effort = Effort()
        self._generators = repeated_generators(self.ids, 0) if generators is None else generators
        self._left = [max_new_tokens] * len(prompts)
        within = [sample for sample, ids in enumerate(self.ids) if len(ids) <= model.max_length]
        self._cached = _Cached(self, within, draft) if within and max_new_tokens else None

    @property
    def unfinished(self) -> bool:
        """Whether there are tokens to come."""
        return any(self._left)

    def left(self, sample: int) -> int:
        """Tokens that are to come of a sample at most."""
        return self._left[sample]

    def finish(self, sample: int) -> None:
        """Ask for no more tokens of a sample."""
        self._left[sample] = 0

    @torch.no_grad()
    def step(self) -> list[list[int]]:
        """One pass; the new tokens of each sample: one, more where guesses came true, none of one that is finished."""
        began, first = time.perf_counter(), self.effort.read == 0
        added: list[list[int]] = [[] for _ in self.ids]
        going = [sample for sample, left in enumerate(self._left) if left]
        onward = [sample for sample in going if len(self.ids[sample]) <= self.model.max_length]
        beyond = [sample for sample in going if len(self.ids[sample]) > self.model.max_length]
        if first:
            self.effort.read = sum(min(len(self.ids[sample]), self.model.max_length) for sample in going)
        if onward and self._cached is not None:
            self._cached.step(onward, added)
        if beyond:
            self.effort.slid = True
            windows = [self.ids[sample][-self.model.max_length :] for sample in beyond]
            logits = self.model(torch.tensor(windows, device=self.model.head.weight.device))[:, -1].cpu()
            for sample, row in zip(beyond, logits, strict=True):
                added[sample] = self.take(sample, row[None], [])
        took = time.perf_counter() - began
        if first:
            self.effort.read_s += took
        else:
            self.effort.written_s += took
            self.effort.written += sum(len(tokens) for tokens in added)
        return added

    def take(self, sample: int, logits: Tensor, drafts: Sequence[int]) -> list[int]:
        """The next tokens of a sample, by logits (1 + N, V) behind the last one and behind each of its N guesses."""
        if self.model.padding is not None:
            logits[:, self.model.padding] = -math.inf
        taken: list[int] = []
        for row, draft in zip(logits, [*drafts, None], strict=True):
            token = self.sampler.choose(row, self._generators[sample])
            taken.append(token)
            if token != draft or token in self.eos:
                break
        self.ids[sample] += taken
        self._left[sample] = 0 if taken[-1] in self.eos else self._left[sample] - len(taken)
        return taken


class _Cached:
    """The samples of a generation that go on from what layers keep, by their places in the batch of the decoder."""

    def __init__(self, generation: Generation, samples: Sequence[int], draft: int) -> None:
        model, ids = generation.model, generation.ids
        self.generation, self.samples = generation, samples
        capacity = model.max_length
        if not any(isinstance(part, AttentionCore) and part.by_length for part in model.modules()):
            longest = max(len(ids[sample]) + generation.left(sample) for sample in samples)
            capacity = min(capacity, longest)
        self.decoder = Decoder(model, batch=len(samples), capacity=capacity)
        self.drafter = Drafter(model, batch=len(samples), capacity=capacity, depth=draft) if draft else None
        self._have = [0] * len(samples)  # tokens of each that the decoder has

    def step(self, going: Sequence[int], added: list[list[int]]) -> None:
        """Give to `added` the next tokens of the samples in `going`."""
        ids = [self.generation.ids[sample] if sample in going else [] for sample in self.samples]
        drafts = self._drafts(ids)
        given = [[*each[have:], *draft] for each, have, draft in zip(ids, self._have, drafts, strict=True)]
        counts = [len(each) for each in given]
        mark = self.decoder.mark() if any(drafts) else None
        hidden = self.decoder.read(_padded(given, self.decoder.lengths.device), torch.tensor(counts))
        if self.drafter is not None:
            self.drafter.see(hidden, self._have, counts)
        logits = self._last_logits(hidden, counts, 1 + max(len(draft) for draft in drafts))
        wanted = []
        for row, (sample, draft) in enumerate(zip(self.samples, drafts, strict=True)):
            if ids[row]:
                added[sample] = self.generation.take(sample, logits[row, -1 - len(draft) :], draft)
                self._count(draft, added[sample])
            # The last token is to be given yet.
            wanted.append(len(self.generation.ids[sample]) - 1 if ids[row] else self._have[row])
        self._have = wanted if mark is None else self._take_back(mark, wanted)

    def _drafts(self, ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """Guesses for each sample, as many as there is room and need for; none before the model has seen anything."""
        if self.drafter is None or not any(self._have):
            return [[] for _ in ids]
        room = [
            min(self.generation.left(sample) - 1, self.decoder.capacity - len(each)) if each else 0
            for sample, each in zip(self.samples, ids, strict=True)
        ]
        drafts = self.drafter.draft([each if space > 0 else [] for each, space in zip(ids, room, strict=True)])
        return [draft[:space] if space > 0 else [] for draft, space in zip(drafts, room, strict=True)]

    def _last_logits(self, hidden: Tensor, counts: Sequence[int], width: int) -> Tensor:
        """Logits (B, width, V) behind the last tokens of each sample, on the CPU."""
        place = torch.tensor(counts)[:, None] - torch.arange(width, 0, -1)
        place = place.clamp(min=0).to(hidden.device)
        last = hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[-1]))
        return self.generation.model.logits(last).cpu()

    def _take_back(self, mark: Mark, wanted: list[int]) -> list[int]:
        now: list[int] = self.decoder.take_back(mark, torch.tensor(wanted)).tolist()
        return now

    def _count(self, draft: Sequence[int], taken: Sequence[int]) -> None:
        if draft:
            effort = self.generation.effort
            effort.passes += 1
            effort.drafted += len(draft)
            effort.accepted += sum(guess == token for guess, token in zip(draft, taken, strict=False))


def repeated_generators(prompts: Sequence[Sequence[int]], seed: int) -> list[torch.Generator]:
    """The draws of each prompt: of the seed and the prompt alone, and others where the same prompt comes again."""
    seen: dict[tuple[int, ...], int] = {}
    made = []
    for prompt in map(tuple, prompts):
        times = seen[prompt] = seen.get(prompt, -1) + 1
        made.append(keyed_generator("again", seed, times) if times else torch.Generator().manual_seed(seed))
    return made


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """The rows side by side, zeros behind the shorter ones."""
    padded = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.int64)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded.to(device)
