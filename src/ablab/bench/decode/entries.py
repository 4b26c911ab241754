"""What is timed: models of ours with caches, and those of `transformers` with the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor

from ablab.bench.layers.pair import randomised
from ablab.bench.loop import compose_config
from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.export.counterparts import COUNTERPARTS
from ablab.export.settings import ModelSettings
from ablab.model.decoding import Decoder, without_cache
from ablab.model.transformer import Transformer
from ablab.tasks.base import Task
from ablab.training.build_model import build_model

BASE = "llama"  # the recipe that attentions are put into, and that is timed with its own
_BASE = (f"recipe={BASE}", "model.n_kv_heads=null")  # some attentions share no heads


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of all models, in single precision on the processor.

    Raises:
        UserError: a size is out of its range.
    """

    width: int = 256
    heads: int = 4
    layers: int = 4
    words: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UserError(f"--{name} {value}: must be at least 1")
        if self.width % (2 * self.heads):
            raise UserError(f"--width {self.width}: must be a multiple of twice --heads {self.heads}")

    @property
    def overrides(self) -> list[str]:
        return [f"model.d_model={self.width}", f"model.n_heads={self.heads}", f"model.n_layers={self.layers}"]


class Session:
    """Samples that a model goes on with. Subclasses say how."""

    def extend(self, tokens: Tensor) -> Tensor:
        """Take in tokens (B, S); the logits of the last one, (B, words)."""
        raise NotImplementedError

    def mark(self) -> None:
        """Remember the tokens that there are, for `back`."""
        raise NotImplementedError

    def back(self) -> None:
        """Let go of what has come since the mark; it may be gone back to again."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int | None:
        """That are kept; None where nobody tells."""
        return None


class OurSession(Session):
    def __init__(self, model: Transformer, batch: int, capacity: int) -> None:
        self._decoder = Decoder(model, batch=batch, capacity=capacity)

    def extend(self, tokens: Tensor) -> Tensor:
        return self._decoder.extend(tokens)[:, -1]

    def mark(self) -> None:
        self._marked = self._decoder.mark()

    def back(self) -> None:
        self._decoder.take_back(self._marked, self._marked.lengths)

    @property
    def nbytes(self) -> int | None:
        return self._decoder.nbytes


class TheirSession(Session):
    """As `generate` of transformers calls a model, without what it does about it."""

    def __init__(self, model: Any) -> None:
        self._model, self._kept = model, None

    @torch.no_grad()
    def extend(self, tokens: Tensor) -> Tensor:
        out = self._model(input_ids=tokens, past_key_values=self._kept, use_cache=True, logits_to_keep=1)
        self._kept = out.past_key_values
        return cast(Tensor, out.logits[:, -1])

    def mark(self) -> None:
        self._marked = copy.deepcopy(self._kept)

    def back(self) -> None:
        self._kept = copy.deepcopy(self._marked)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the tables: a model that is ready."""

    name: str
    ours: bool
    start: Callable[[int, int], Session]  # of so many samples, with room for so many tokens
    beside: str = ""  # the entry that has the same weights


@dataclass(frozen=True)
class _Text:
    """A task of tokens, as far as a model is made for one."""

    vocab_size: int
    max_length: int
    causal: bool = True
    padding: None = None
    pooled: bool = False
    n_outputs: None = None
    modalities: dict[str, Any] = field(default_factory=dict)


def recipe_entries(name: str, sizes: Sizes, longest: int) -> Iterator[Entry]:
    """A recipe, and its model of transformers where that is installed.

    Raises:
        UserError: there is no such recipe.
    """
    if name not in COUNTERPARTS:
        raise UserError(f"--recipes {name}: there are {', '.join(COUNTERPARTS)}")
    config, model = _model([f"recipe={name}", *(_BASE[1:] if name == BASE else ())], sizes, longest)
    yield Entry(name=f"{name}: ours", ours=True, start=lambda batch, capacity: OurSession(model, batch, capacity))
    counterpart = COUNTERPARTS[name]
    try:
        kind = getattr(import_module("transformers"), counterpart.model)
    except ModuleNotFoundError:
        return
    theirs = kind(kind.config_class(**counterpart.config(model, ModelSettings.of(config)))).eval()
    theirs.load_state_dict(counterpart.weights_of(model), strict=False)
    its_name = f"{name}: transformers"
    yield Entry(name=its_name, ours=False, start=lambda *_: TheirSession(theirs), beside=f"{name}: ours")


def attention_entry(option: str, sizes: Sizes, longest: int) -> Entry | str:
    """The base with another attention; or why it has no line."""
    _, model = _model([*_BASE, f"attention={option}"], sizes, longest)
    if line := without_cache(model):
        return line
    return Entry(name=option, ours=True, start=lambda batch, capacity: OurSession(model, batch, capacity))


def _model(overrides: Sequence[str], sizes: Sizes, longest: int) -> tuple[RunConfig, Transformer]:
    config = compose_config([*overrides, *sizes.overrides])
    task = cast(Task, _Text(vocab_size=sizes.words, max_length=longest))
    return config, cast(Transformer, randomised(build_model(config, task)))
