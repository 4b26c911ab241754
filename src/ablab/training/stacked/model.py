"""One pass forward and back for several models of one shape: their weights with a leading dimension of seeds.

`torch.func.vmap` makes of each operator the one that does the same for all seeds: of matrix products batched ones. The
seeds of attention are folded into its batch (`ablab.model.attention.folded`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ablab.model.attention.folded import FoldedSeeds
from ablab.model.protocols import has_penalties
from ablab.model.transformer import Transformer
from ablab.tasks.base import Batch, Inputs, Task

_Named = dict[str, Tensor]


@dataclass(frozen=True)
class Passed:
    """What a pass gave to one seed.

    Attributes:
        loss: the task's own.
        total: what is minimised, penalties included.
        gradients: by the name of the parameter; None where it has nothing to do with the total.
    """

    loss: Tensor
    total: Tensor
    gradients: Mapping[str, Tensor | None]


class StackedModel:
    """The passes of models in places of a stack.

    The stack is always of its full size: a place that nobody is in any more repeats the first that somebody is in. What
    one place computes depends on no other, and so its rounding does not change with those that have ended.

    Args:
        template: a model of the same shape, whose values do not matter. What a pass leaves in its modules stays there.
        task: whose loss is minimised.
        size: places.
    """

    def __init__(self, template: Transformer, task: Task, size: int) -> None:
        self._size = size
        self._objective = _Objective(template.train(), task)
        self._tensors: dict[int, Tensors] = {}  # of the models, by place

    def __call__(self, models: Mapping[int, Transformer], batches: Mapping[int, Batch]) -> dict[int, Passed]:
        """One pass of each model on its batch, by place. The buffers of the models change as they do in a pass."""
        if len({_shapes(each) for each in batches.values()}) > 1:  # nothing to be stacked
            return {place: self._pass({place: models[place]}, {place: batches[place]}, 1)[place] for place in models}
        return self._pass(models, batches, self._size)

    def _pass(self, models: Mapping[int, Transformer], batches: Mapping[int, Batch], size: int) -> dict[int, Passed]:
        first = min(models)
        whose = [place if place in models else first for place in range(size)] if size > 1 else [first]
        tensors = [self._tensors_of(place, models[place]) for place in whose]
        own = [each.parameters() for each in tensors]
        parameters, buffers = _stacked(own), _stacked([each.buffers() for each in tensors])
        learned = {name: p.requires_grad_() for name, p in parameters.items() if own[0][name].requires_grad}
        inputs = _inputs_of([batches[place][0] for place in whose])
        targets = torch.stack([batches[place][1] for place in whose])
        before = {name: buffer._version for name, buffer in buffers.items()}
        with FoldedSeeds():
            losses, totals = vmap(self._objective.of, randomness="error")(parameters, buffers, inputs, targets)
        gradients = torch.autograd.grad(totals.sum(), list(learned.values()), allow_unused=True)
        changed = {name: each for name, each in buffers.items() if each._version != before[name]}
        # Contiguous as the parameters are: fused optimizers go by memory, and not by strides.
        each_ones = {
            name: [None] * size if each is None else each.contiguous().unbind()
            for name, each in zip(learned, gradients, strict=True)
        }
        found = {}
        for index, place in enumerate(whose):
            if place in found:
                continue
            _give_back(models[place], {name: each[index] for name, each in changed.items()})
            found[place] = Passed(
                losses[index].detach(),
                totals[index].detach(),
                {name: each[index] for name, each in each_ones.items()},
            )
        return found

    def _tensors_of(self, place: int, model: Transformer) -> Tensors:
        known = self._tensors.get(place)
        if known is None or known.model is not model:
            known = self._tensors[place] = Tensors(model)
        return known


class Tensors:
    """The parameters and buffers of a model by their names, found again and again.

    `named_parameters` goes through all modules, which takes as long as some products of a small model. Here it does so
    once; tensors that were put in the place of others are found.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._parameters = _places(model, [name for name, _ in model.named_parameters()])
        self._buffers = _places(model, [name for name, _ in model.named_buffers()])

    def parameters(self) -> _Named:
        return {name: getattr(module, own) for name, module, own in self._parameters}

    def buffers(self) -> _Named:
        return {name: getattr(module, own) for name, module, own in self._buffers}


def _places(model: nn.Module, names: Sequence[str]) -> list[tuple[str, nn.Module, str]]:
    """Of each name the module that has it, and how it is called there."""
    split = [(name, *name.rpartition(".")[::2]) for name in names]
    return [(name, model.get_submodule(where), own) for name, where, own in split]


class _Objective(nn.Module):
    """What is minimised, as one module: a penalty looks at the same weights as the pass before it."""

    def __init__(self, model: Transformer, task: Task) -> None:
        super().__init__()
        self.model = model
        self._task = task
        self._penalised = has_penalties(model)

    def forward(self, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        loss = self._task.loss(self.model(inputs, targets=targets), targets)
        return loss, loss + self.model.penalty() if self._penalised else loss

    def of(self, parameters: _Named, buffers: _Named, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the total for these parameters and buffers of the model."""
        values = {f"model.{name}": value for name, value in {**parameters, **buffers}.items()}
        return cast(tuple[Tensor, Tensor], functional_call(self, values, (inputs, targets)))


@torch.no_grad()
def _stacked(named: Sequence[Mapping[str, Tensor]]) -> _Named:
    return {name: torch.stack([each[name] for each in named]) for name in named[0]}


def _inputs_of(inputs: Sequence[Inputs]) -> Inputs:
    if isinstance(inputs[0], Tensor):
        return torch.stack(cast(list[Tensor], list(inputs)))
    return _stacked(cast(Sequence[Mapping[str, Tensor]], inputs))


@torch.no_grad()
def _give_back(model: Transformer, changed: Mapping[str, Tensor]) -> None:
    for name, value in changed.items():
        model.get_buffer(name).copy_(value)


def _shapes(batch: Batch) -> tuple[object, ...]:
    inputs, targets = batch
    named = {"": inputs} if isinstance(inputs, Tensor) else inputs
    return targets.shape, *((name, each.shape) for name, each in named.items())
