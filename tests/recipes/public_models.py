"""A recipe beside the model of `transformers` that it is in small, with its weights: logits, and gradients of the loss.

A test gives a `Public`: the recipe, the model's class and settings. Their weights become ours as `ablab.export` has it
by name, the other way round than it writes them. That is of slices, transposes and sums alone, so that gradients go
through it: whatever it does to a weight, theirs and ours must pull it alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from ablab.config import RunConfig
from ablab.export.conversions import to_ours
from ablab.export.counterparts import COUNTERPARTS
from ablab.model.transformer import Transformer
from ablab.training.build_model import build_model

Weights = dict[str, Tensor]

WORDS, LONGEST = 40, 96
LENGTHS = (1, 7, 33, 96)
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-9}
# Of the recipes at the sizes of model=tiny, as `transformers` calls them.
HEADS, WIDTH = 4, 64
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": 4,
    "max_position_embeddings": LONGEST,
    "bos_token_id": None,
    "eos_token_id": None,
}
GATED = 171  # hidden units of a gated part where model.d_ff is 256


@dataclass(frozen=True, kw_only=True)
class Public:
    """A model of `transformers`, and what it is here.

    Args:
        recipe: its name, as in `recipe=llama`.
        model: the class, as in "LlamaForCausalLM"; its config's is found beside it.
        settings: of its config.
        overrides: of the recipe, where the test wants other sizes.
        scale: of the random matrices. What is larger has larger rounding errors, of theirs as of ours.
    """

    recipe: str
    model: str
    settings: Mapping[str, Any]
    overrides: Sequence[str] = ()
    scale: float = 0.1

    def theirs(self) -> Any:
        """The model with random weights: every matrix, and every vector about the value that it begins with."""
        transformers = import_module("transformers")
        kind = getattr(transformers, self.model)
        config = kind.config_class(**self.settings)
        config._attn_implementation = config._experts_implementation = "eager"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = kind(config).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(drawn * self.scale if parameter.ndim > 1 else parameter + 0.2 * drawn)
        return model

    def ours(self, config: RunConfig) -> Transformer:
        """The recipe's model, for a task of `WORDS` tokens."""
        task: Any = SimpleNamespace(vocab_size=WORDS, max_length=LONGEST, causal=True, padding=None, pooled=False)
        task.n_outputs, task.modalities = None, {}
        return build_model(config, task).eval()


@dataclass
class Differences:
    """The largest so far, of logits and, over the largest of its tensor where that is above 1, of gradients."""

    logits: float = 0.0
    gradients: dict[str, float] = field(default_factory=dict)

    def see(self, length: int, own: tuple[Tensor, Weights], its: tuple[Tensor, Weights]) -> None:
        self.logits = max(self.logits, float((own[0] - its[0]).abs().max()))
        for name, gradient in its[1].items():
            size = max(1.0, float(gradient.abs().max()))
            found = float((own[1][name] - gradient).abs().max()) / size
            self.gradients[name] = max(self.gradients.get(name, 0.0), found)

    def check(self, tolerance: float) -> None:
        assert self.logits <= tolerance
        assert {name: found for name, found in self.gradients.items() if not found <= tolerance} == {}


def compare(public: Public, config: RunConfig, dtype: torch.dtype, lengths: Sequence[int] = LENGTHS) -> Differences:
    """Both models at several lengths, the second of three sequences with padding at its end."""
    with precision(dtype):
        theirs, ours = public.theirs(), public.ours(config)
        found = Differences()
        for length in lengths:
            generator = torch.Generator().manual_seed(length)
            ids, targets = (torch.randint(WORDS, (3, length), generator=generator) for _ in range(2))
            padding = torch.zeros(3, length, dtype=torch.bool)
            padding[1, length - length // 3 :] = True
            own, its = (
                _run(logits, theirs, targets, ~padding)
                for logits in (
                    functional_call(ours, named(public, theirs, ours), (ids, padding)),
                    theirs(input_ids=ids, attention_mask=(~padding).long(), use_cache=False).logits,
                )
            )
            found.see(length, own, its)
    print(f"{public.recipe} {dtype}: logits {found.logits:.1e}, gradients {max(found.gradients.values()):.1e}")
    return found


def named(public: Public, theirs: Any, ours: Transformer) -> Weights:
    """Our weights, made of theirs. Every parameter of ours is made of some; buffers may be."""
    links = COUNTERPARTS[public.recipe].links_of(ours)
    mapped = to_ours(links, dict(theirs.named_parameters()) | dict(theirs.named_buffers()))
    state = ours.state_dict()
    assert {name for name, _ in ours.named_parameters()} - set(mapped) == set(), "without a weight of theirs"
    assert {name: tuple(weight.shape) for name, weight in mapped.items()} == {
        name: tuple(state[name].shape) for name in mapped
    }
    return mapped


def _run(logits: Tensor, theirs: Any, targets: Tensor, real: Tensor) -> tuple[Tensor, Weights]:
    """Logits where there are tokens, and what their loss asks of every parameter of theirs."""
    parameters = dict(theirs.named_parameters())
    loss = cross_entropy(logits[real], targets[real])
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    there = {name: torch.zeros(()) if each is None else each for name, each in zip(parameters, gradients, strict=True)}
    return logits[real].detach(), there


@contextlib.contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Within it models are made and computed in this precision, whatever they ask for themselves."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with InDouble() if dtype == torch.float64 else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(before)


class InDouble(TorchFunctionMode):
    """Puts double precision in place of single, for models that go back to that at places."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        kwargs = {key: _doubled(value) for key, value in (kwargs or {}).items()}
        return func(*map(_doubled, args), **kwargs)


def _doubled(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
