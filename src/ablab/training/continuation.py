"""Texts that the model of a run continues, in pieces as they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ablab.errors import UserError, one_line
from ablab.model.drafting import depths
from ablab.model.generation import Effort, Generation, repeated_generators
from ablab.model.sampling import Sampler, SettingError
from ablab.model.transformer import Transformer
from ablab.tasks.base import Task
from ablab.tasks.text_stream import TextStream

ALL = -1  # guesses: as many as the model has modules for


@dataclass(frozen=True, kw_only=True)
class ContinuationSettings:
    """How texts are continued; messages name the flags of the command line.

    Args:
        tokens: how many to add to each.
        temperature, top_k, top_p: as of `Sampler`.
        seed: of draws, at least 0.
        stop: strings before the first of which a text ends.
        draft: tokens that the objective's modules guess at a time; `ALL`: as many as there are modules.
        batch_size: texts that are continued together.

    Raises:
        UserError: a value is out of its range.
    """

    tokens: int = 200
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop: Sequence[str] = ()
    draft: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name, value, least in (("tokens", self.tokens, 0), ("batch-size", self.batch_size, 1)):
            if value < least:
                raise UserError(f"--{name} {value}: must be at least {least}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed}: must be at least 0 and less than 2**63")
        if "" in self.stop:
            raise UserError("--stop: must not be empty")
        try:
            _ = self.sampler
        except SettingError as error:
            raise UserError(f"--{error.name.replace('_', '-')} {error.value}: {error.words}") from error

    @cached_property
    def sampler(self) -> Sampler:
        return Sampler(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


@dataclass(frozen=True)
class Prompt:
    """A text to continue, and where it is from, as messages name it."""

    text: str
    source: str = "--prompt"


@dataclass(frozen=True)
class Piece:
    """More text behind a prompt.

    Attributes:
        place: of the prompt, among all.
        finish_reason: of the last piece of a prompt, "stop" where a stop string came, "length" where all tokens did.
        tokens: new ones of the prompt so far, those of a stop string among them.
    """

    place: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    tokens: int


class Continuations:
    """The texts of prompts, to be iterated over piece by piece, several at the same time.

    Attributes:
        prompts: their texts, as the vocabulary gives them back.
        effort: so far.

    Raises:
        UserError: a prompt is empty, or the vocabulary cannot write it, or the model cannot guess tokens.
    """

    def __init__(
        self, model: Transformer, task: Task, prompts: Sequence[Prompt], settings: ContinuationSettings
    ) -> None:
        self.model, self.task, self.settings = model, task, settings
        if task.pooled:
            raise UserError("the run's task asks for one answer to a whole sequence: there is nothing to continue")
        self._ids = [self._encoded(prompt) for prompt in prompts]
        self.prompts = [task.decode(ids) for ids in self._ids]
        self.draft = self._checked_draft()
        self.effort = Effort()

    def __iter__(self) -> Iterator[Piece]:
        """Raises UserError where the model turns out not to be able to go on."""
        draws = repeated_generators([ids.tolist() for ids in self._ids], self.settings.seed)
        for start in range(0, len(self._ids), self.settings.batch_size):
            ids = self._ids[start : start + self.settings.batch_size]
            try:
                generation = Generation(
                    self.model,
                    ids,
                    max_new_tokens=self.settings.tokens,
                    sampler=self.settings.sampler,
                    generators=draws[start : start + len(ids)],
                    draft=self.draft,
                )
            except ValueError as error:
                raise UserError(one_line(error)) from error
            try:
                yield from self._written(generation, start)
            except ValueError as error:
                raise UserError(one_line(error)) from error
            finally:
                self.effort.add(generation.effort)

    def _written(self, generation: Generation, start: int) -> Iterator[Piece]:
        counts = [0] * len(generation.ids)
        streams = [TextStream(self._decode, ids, self.settings.stop) for ids in generation.ids]
        waiting = list(range(len(streams)))
        while waiting:
            added = generation.step() if generation.unfinished else [[] for _ in streams]
            for place in [*waiting]:
                stream = streams[place]
                text = ""
                for token in added[place]:  # of several, those behind a stop string are none of the text's
                    text += stream.put([token])
                    counts[place] += 1
                    if stream.stopped:
                        generation.finish(place)
                        break
                ended = not generation.left(place)
                if ended:
                    text += stream.end()
                    waiting.remove(place)
                reason: Literal["stop", "length"] = "stop" if stream.stopped else "length"
                yield Piece(start + place, text, reason if ended else None, counts[place])

    def _decode(self, ids: Sequence[int]) -> str:
        return self.task.decode(torch.tensor(ids, dtype=torch.int64))

    def _encoded(self, prompt: Prompt) -> Tensor:
        if not prompt.text:
            raise UserError(f"{prompt.source}: must not be empty")
        try:
            return self.task.encode(prompt.text)
        except ValueError as error:
            raise UserError(f"{prompt.source}: {error}") from error

    def _checked_draft(self) -> int:
        asked, most = self.settings.draft, depths(self.model)
        if asked == 0:
            return 0
        if most == 0:
            raise UserError("--draft: the model has no modules that guess tokens: train with objective=multi_token")
        if asked != ALL and not 1 <= asked <= most:
            raise UserError(f"--draft {asked}: must lie in 1..{most}, the model's objective.depth")
        return most if asked == ALL else asked
