"""Passes through models that can be compared: in either mode, at any step, each from the same state."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ablab.model.draws import seed_pass
from ablab.model.initialisation import keyed_generator
from ablab.model.transformer import Transformer
from ablab.tasks.base import Inputs

if TYPE_CHECKING:
    from ablab.certify.subject import Subject

SHORT = 24
LATE = 10_000  # optimizer steps behind every warm-up

Model = Transformer


@torch.no_grad()
def stir(model: Model, seed: int = 0) -> Model:
    """Add to each parameter a random part that is a function of its name, of the size that training gives it."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=keyed_generator("stirred", seed, name), dtype=torch.float64)
        scale = 1.2 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.add_((scale * noise).to(parameter.dtype))
    return model


@contextmanager
def in_mode(model: Model, *, train: bool, step: int = LATE, key: int = 0, keep: bool = False) -> Iterator[None]:
    """Within it the model trains at a step, with that pass's draws, or evaluates.

    Args:
        keep: what passes change of its buffers stays so; else all begin alike.
    """
    before = torch.get_rng_state()
    model.train(train)
    try:
        with nullcontext() if keep else held(model):
            if train:
                model.resample(step)
                seed_pass(0, step, key)
            yield
    finally:
        torch.set_rng_state(before)


@contextmanager
def held(model: Model) -> Iterator[None]:
    """Within it passes change copies of its buffers."""
    before = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    for module, buffers in before:
        for name, each in buffers.items():
            module._buffers[name] = None if each is None else each.clone()
    try:
        yield
    finally:
        for module, buffers in before:
            module._buffers.update(buffers)


@torch.no_grad()
def logits(
    model: Model,
    inputs: Inputs,
    mask: Tensor | None = None,
    *,
    train: bool = False,
    step: int = LATE,
    key: int = 0,
    keep: bool = False,
) -> Tensor:
    """What the model makes of inputs, (B, T, V), in either mode.

    Args:
        keep: as of `in_mode`.
    """
    with in_mode(model, train=train, step=step, key=key, keep=keep):
        return cast(Tensor, model(inputs, mask)).clone()


def loss(
    model: Model, inputs: Inputs, targets: Tensor, *, step: int = LATE, penalties: bool = True, keep: bool = False
) -> Tensor:
    """What training minimises, of a pass in training; `keep` as of `in_mode`."""
    with in_mode(model, train=True, step=step, keep=keep):
        given = model(inputs, targets=targets)
        found = cross_entropy(given.flatten(0, 1), targets.flatten())
        return found + model.penalty() if penalties else found


def gradients(model: Model, value: Tensor) -> dict[str, Tensor | None]:
    """The gradient of a scalar with respect to each parameter, by name; None where it does not depend on it."""
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


class Trained:
    """A model with its optimizer, for a few steps as a run takes them."""

    def __init__(self, subject: Subject, model: Model, lr: float = 3e-3) -> None:
        self.subject, self.model, self.step = subject, model, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

    def take(self, count: int, length: int = SHORT, *, fixed: bool = False) -> list[float]:
        """So many steps; the loss of each. `fixed`: all on one batch."""
        found = []
        for _ in range(count):
            inputs = as_dtype(self.subject.inputs(4, length, seed=0 if fixed else self.step), self.model)
            value = loss(self.model, inputs, self.subject.targets(inputs), step=self.step, keep=True)
            self.optimizer.zero_grad()
            value.backward()
            self.optimizer.step()
            self.model.after_step()
            self.step += 1
            found.append(value.item())
        return found


def as_dtype(inputs: Inputs, model: Model) -> Inputs:
    """Features in the precision of the model; tokens as they are."""
    if isinstance(inputs, Tensor):
        return inputs
    dtype = model.head.weight.dtype
    return {name: each.to(dtype) if each.is_floating_point() else each for name, each in inputs.items()}


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors, against the size of the first; infinite where one is not finite."""
    if one.shape != other.shape or not (one.isfinite().all() and other.isfinite().all()):
        return float("inf")
    if not one.numel():
        return 0.0
    size = one.double().square().mean().sqrt().clamp(min=1e-30)
    return float((one.double() - other.double()).abs().max() / size)


def first_place(one: Tensor, other: Tensor, above: float) -> str:
    """Where two tensors (B, T, ...) first differ by more than that, "sample 0, token 3"."""
    size = one.double().square().mean().sqrt().clamp(min=1e-30)
    apart = ((one.double() - other.double()).abs() > above * size) | ~other.isfinite()
    where = apart.flatten(2).any(-1).nonzero()
    return f"sample {int(where[0, 0])}, token {int(where[0, 1])}" if len(where) else "nowhere"


def copied(model: Model) -> Model:
    return copy.deepcopy(model)
