"""Forks: a run that goes on from a trunk of the same seed, with components of its own in the place of the trunk's.

The trunk is a run of the baseline for some steps. Whatever made its seed good or bad until then is common to all runs
that go on from it, and so is what rounding made of it, so that pairs stay closer than two runs from the start. What is
compared is then another question: what a component does to a model that has learned without it.

Weights, the optimizer's moments and what the schedule remembers of each parameter are taken over by name. What the
trunk has not begins at its initial value, and what the run has not is left behind. A component must fit in: where it
has weights of the trunk's names in other shapes, or the loss jumps when it is inserted, one line refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from ablab.config import RunConfig
from ablab.config.placebo import NUDGE, placebo_of
from ablab.errors import UserError
from ablab.model.placebo import nudge
from ablab.model.transformer import Transformer
from ablab.tasks.base import Task
from ablab.training.build import BuiltRun
from ablab.training.build_model import build_model
from ablab.training.optimizers.groups import build_optimizer
from ablab.training.optimizers.widths import GROWTH

LARGEST_JUMP = 0.05  # of the loss, relative, at which a component counts as inserted near the identity
_STATES = ("state_dict", "current_model_state")  # of a checkpoint; the second beside averaged weights
_MODEL = "model."  # how the names of weights begin in a checkpoint
Members = dict[tuple[Any, ...], list[str]]  # by the group of parameters, their names


@dataclass(frozen=True)
class Fork:
    """What a run takes over from its trunk.

    Args:
        trunk: the trunk's config.
        built: the run that goes on.
    """

    trunk: RunConfig
    built: BuiltRun

    def insert(self, checkpoint: StateDict, own: Transformer) -> str:
        """Make the trunk's checkpoint one of this run, in place, and return a line on what that did to the loss.

        Raises:
            UserError: a component cannot be inserted so.
        """
        task = self.built.task
        theirs = build_model(self.trunk, task)
        _check_shapes(theirs, own)
        optimizers = [build_optimizer(self.built.optimizer, model) for model in (theirs, own)]
        known, wanted = (_members(*each) for each in zip(optimizers, (theirs, own), strict=True))
        for saved in checkpoint["optimizer_states"]:
            _take_moments(saved, known, wanted)
        schedule = self.built.schedule(optimizers[1])
        for saved in checkpoint["lr_schedulers"]:
            for name in getattr(schedule, "per_parameter", ()):
                saved[name] = _by_name(saved[name], known, wanted, own)
        jump = 0.0
        for state in (checkpoint[name] for name in _STATES if name in checkpoint):
            theirs.load_state_dict({name.removeprefix(_MODEL): value for name, value in state.items()})
            self._fill(own, theirs)
            before, after = (_loss(model, task) for model in (theirs, own))
            jump = (after - before) / abs(before)
            if not abs(jump) <= LARGEST_JUMP:
                raise UserError(
                    f"continue_from: a component cannot be inserted: the loss of a batch jumps from {before:.3g} to "
                    f"{after:.3g}, by more than {LARGEST_JUMP:.0%}; train this variant from the start"
                )
            state.clear()
            state.update({f"{_MODEL}{name}": value.clone() for name, value in own.state_dict().items()})
        return f"its components were inserted there, at which the loss of a batch moved by {jump:+.2%}"

    @torch.no_grad()
    def _fill(self, own: Transformer, theirs: Transformer) -> None:
        known = theirs.state_dict()
        own.load_state_dict({name: known.get(name, value) for name, value in own.state_dict().items()})
        if placebo_of(self.built.config.to_dict()) == NUDGE:
            nudge(own)


def _check_shapes(theirs: Transformer, own: Transformer) -> None:
    known = theirs.state_dict()
    for name, value in own.state_dict().items():
        if name in known and known[name].shape != value.shape:
            raise UserError(
                f"continue_from: {name} has the shape {tuple(known[name].shape)} there and {tuple(value.shape)} "
                "here, so that it cannot be taken over; train this variant from the start"
            )


def _members(optimizer: Optimizer, model: Transformer) -> list[Members]:
    """Of each part of the optimizer the names of the parameters in each of its groups, in its order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        {_key(group): [names[id(parameter)] for parameter in group["params"]] for group in part.param_groups}
        for part in getattr(optimizer, "parts", [optimizer])
    ]


def _key(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a group from others: its name, and how its parameters have grown with the width, if they have."""
    return group.get("name"), *group.get(GROWTH, ())


def _take_moments(saved: StateDict, theirs: list[Members], own: list[Members]) -> None:
    """Order what an optimizer remembers of the trunk's parameters as this run has them."""
    parts = saved.get("parts", [saved])
    sizes = [{_key(group): len(group["params"]) for group in part["param_groups"]} for part in parts]
    known = [{group: len(names) for group, names in part.items()} for part in theirs]
    if sizes != known or [[*part] for part in theirs] != [[*part] for part in own]:
        raise UserError(
            "continue_from: the optimizer has other groups of parameters there than here, so that what it remembers "
            "cannot be taken over; train this variant from the start"
        )
    for part, before, after in zip(parts, theirs, own, strict=True):
        _reorder(part, before, after)


def _reorder(saved: StateDict, theirs: Members, own: Members) -> None:
    groups = {_key(group): group for group in saved["param_groups"]}
    place = {
        name: index
        for group, members in theirs.items()
        for name, index in zip(members, groups[group]["params"], strict=True)
    }
    names = [name for members in own.values() for name in members]
    state = saved["state"]
    saved["state"] = {at: state[place[name]] for at, name in enumerate(names) if place.get(name) in state}
    counted = iter(range(len(names)))
    saved["param_groups"] = [
        {**groups[name], "params": [next(counted) for _ in members]} for name, members in own.items()
    ]


def _by_name(saved: list[Tensor], theirs: list[Members], own: list[Members], model: Transformer) -> list[Tensor]:
    """The same of a tensor for each parameter, which is zero of one that the trunk has not."""
    if not saved:  # nothing has been seen
        return []
    before = dict(zip(_names(theirs), saved, strict=True))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    return [before[name] if name in before else saved[0].new_zeros(shapes[name]) for name in _names(own)]


def _names(parts: list[Members]) -> list[str]:
    return [name for part in parts for names in part.values() for name in names]


@torch.no_grad()
def _loss(model: Transformer, task: Task) -> float:
    """The task's loss on the first batch that is evaluated."""
    inputs, targets = next(_evaluated(task))
    training = model.training
    model.eval()
    loss = float(task.loss(model(inputs, targets=targets), targets))
    model.train(training)
    return loss


def _evaluated(task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    loaders = task.val_dataloader()
    for loader in loaders if isinstance(loaders, list) else [loaders]:
        for inputs, targets, *_ in loader:
            yield inputs, targets
