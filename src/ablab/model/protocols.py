"""Protocols for what a component may offer beside its axis's own contract: having the method is taking part.

Whoever uses an offer asks with `isinstance`. `misspelt` finds names that are nearly one of these, so that an option
which means to take part never fails to in silence.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Measured(Protocol):
    """Tells metrics of its own, name -> value, for `ablab.model.mechanism`."""

    def mechanism(self) -> dict[str, float]: ...


@runtime_checkable
class Penalised(Protocol):
    """Asks for something to be added to the training loss: a scalar."""

    def penalty(self) -> Tensor: ...


@runtime_checkable
class PenalisedByPass(Protocol):
    """Says that its penalty is what its last pass has found, so that no weight is looked at when it is asked."""

    penalty_of_pass: bool


@runtime_checkable
class SumsOverPass(Protocol):
    """Adds up what it finds in training where a pass of the model calls it several times: told of each pass's begin."""

    def begin_pass(self) -> None: ...


@runtime_checkable
class Resampled(Protocol):
    """Draws at random, or changes, before each optimizer step, as a function of the seed and the steps taken."""

    def resample(self, step: int) -> None: ...


@runtime_checkable
class FollowsSteps(Protocol):
    """Changes after each optimizer step, alike in every process."""

    def after_step(self) -> None: ...


@runtime_checkable
class FollowsBatches(Protocol):
    """Changes with each batch in training, and is told where batches come in parts: those change it as one.

    Parts are the microbatches of a pipeline, and the modalities that one block serves in turn.
    """

    def begin_microbatches(self) -> None: ...

    def end_microbatches(self) -> None: ...


@runtime_checkable
class InitialisesItself(Protocol):
    """Draws the initial values of its own parameters; see `ablab.model.initialisation`."""

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None: ...


@runtime_checkable
class PartlyActive(Protocol):
    """Says how many of its own parameters a token has nothing to do with."""

    inactive_parameters: int


@runtime_checkable
class StacksMatrices(Protocol):
    """Says that its own parameters of three dimensions are matrices (inputs, outputs) side by side, E of them."""

    stacks_matrices: bool


@runtime_checkable
class Grouped(Protocol):
    """Says which group of an optimizer some of its own parameters belong to, where their dimensions do not tell."""

    parameter_groups: Mapping[str, str]  # name -> "not_decayed", or "kernels": decayed, and no matrices


@runtime_checkable
class SumsOver(Protocol):
    """Says which dimensions of its own parameters are summed over, where those are not all but the first."""

    summed_over: Mapping[str, tuple[int, ...]]  # name -> dimensions; () of a table of which rows are taken


@runtime_checkable
class InitialisedByFanIn(Protocol):
    """Says that the initial values that it draws get smaller with the root of the fan-in by themselves."""

    initialised_by_fan_in: bool


@runtime_checkable
class ScalesQueries(Protocol):
    """Multiplies its queries by a factor that a parametrisation sets, and says how many coordinates they have."""

    query_size: int  # 0 where scores do not grow with it
    query_factor: float


@runtime_checkable
class ChecksLength(Protocol):
    """Says by a ValueError where its settings do not fit sequences of so many tokens; asked of the models of runs."""

    def check_length(self, length: int) -> None: ...


@runtime_checkable
class NeedsIds(Protocol):
    """Works on the tokens that went into the model, and not on what was made of them alone."""

    needs_ids: bool


@runtime_checkable
class SizesItself(Protocol):
    """An activation that takes `inputs` features and gives `width`, not d_ff of each."""

    inputs: int
    width: int


@runtime_checkable
class WorksByUnit(Protocol):
    """An activation that says whether it gives the same for a hidden unit whichever others it is given beside it."""

    by_unit: bool


@runtime_checkable
class HeedsPadding(Protocol):
    """An activation that says whether padding is nothing to it: it is then given the mask (B, T), too, if there is one.

    The mask is true where there is no token, and is of x: `forward(x, missing=None)`.
    """

    heeds_padding: bool


@runtime_checkable
class TellsVisited(Protocol):
    """An attention core that tells which keys queries see; see `AttentionCore.visited`."""

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor: ...


@runtime_checkable
class TellsWeights(Protocol):
    """An attention core that tells what it weighs keys with; see `AttentionCore.weights`."""

    def weights(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor: ...


@runtime_checkable
class NeedsModalities(Protocol):
    """A class of options that says whether they have anything to do where an input has one modality."""

    needs_several: bool


@runtime_checkable
class StartsAs(Protocol):
    """Says which option of its axis it is before training: its name, or "identity" for none at all. "" says nothing."""

    starts_as: str


@runtime_checkable
class SpeedSettings(Protocol):
    """Names those of its settings that change how fast it is, or what memory it takes, and nothing that it gives."""

    speed_settings: Sequence[str]


@runtime_checkable
class BreaksGraph(Protocol):
    """Says why `torch.compile` cannot have it in one graph; `ablab verify` then asks for equal outputs alone."""

    breaks_graph: str


OFFERS = (
    *(Measured, Penalised, PenalisedByPass, SumsOverPass),
    *(Resampled, FollowsSteps, FollowsBatches, InitialisesItself),
    *(PartlyActive, StacksMatrices, Grouped, SumsOver, InitialisedByFanIn, ScalesQueries),
    *(ChecksLength, NeedsIds, SizesItself, WorksByUnit, HeedsPadding),
    *(StartsAs, SpeedSettings, BreaksGraph),
)


@cache
def _asked(offer: type) -> tuple[str, ...]:
    return tuple(name for name in (*vars(offer), *inspect.get_annotations(offer)) if not name.startswith("_"))


NAMES = {name for offer in OFFERS for name in _asked(offer)}

Offer = TypeVar("Offer")


def offering(model: nn.Module, offer: Callable[..., Offer]) -> Iterator[tuple[str, Offer]]:
    """The components of `model`, by their qualified names, that have what the protocol asks for; not `model` itself."""
    asked = _asked(cast(type, offer))  # `isinstance` finds the same, in ten times the time
    for name, module in model.named_modules():
        if module is not model and all(hasattr(module, each) for each in asked):
            yield name, cast(Offer, module)


def has_penalties(model: nn.Module) -> bool:
    """Does any component ask for a penalty? Asked once, so that models without one do not add zero at every step."""
    return any(True for _ in offering(model, Penalised))


@cache
def misspelt(option: type, contracts: tuple[type, ...]) -> tuple[str, str] | None:
    """A public name of a component's class that nobody asks for, and the name that it nearly is; None if all is well.

    Args:
        contracts: the classes whose own names are asked for, too.
    """
    asked = NAMES | {name for contract in contracts for name in dir(contract)}
    for name in (name for cls in option.__mro__ if cls not in nn.Module.__mro__ for name in vars(cls)):
        if not name.startswith("_") and name not in asked:
            meant = difflib.get_close_matches(name, [each for each in asked if each[0] != "_"], n=1, cutoff=0.85)
            if meant:
                return name, meant[0]
    return None
