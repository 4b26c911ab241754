"""Whether it does anything: its outputs count, its parameters count, and it is not the usual option anew."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ablab.certify.checks.learning import WITHOUT
from ablab.certify.outcomes import Failed, Skipped, require
from ablab.certify.passes import LATE, Model, difference, logits, loss
from ablab.certify.subject import LONG, Subject
from ablab.model.layer_fusion.base import LastLayer
from ablab.model.position import Position
from ablab.model.protocols import StartsAs
from ablab.tasks.base import Inputs

SAME = 1e-9  # of the size of the outputs, in double precision
COUNTS = 1e-12
IDENTITY = re.compile(
    r"(?:start|begin|initiali[sz]|before training|at first)[^.]{0,80}?"
    r"\b(?:identity|plain (?:transformer|residual|model)|adds? nothing|no effect|does nothing|contributes? nothing)",
    re.IGNORECASE | re.DOTALL,
)


def differs(subject: Subject) -> str:
    """It computes something else than the axis's default option, with the same weights wherever names agree."""
    if subject.is_usual:
        raise Skipped(f"it is {subject.usual_name}, the default")
    apart = {}
    for when, stirred in (("at the start", False), ("with larger weights", True)):
        model, usual = subject.model(stirred=stirred), subject.model(usual=True, stirred=stirred)
        apart[when] = max(_apart(subject, model, usual))
    if max(apart.values()) <= SAME:
        # What follows batches may begin as the usual option.
        apart["after some batches"] = max(_apart(subject, _followed(subject), subject.model(usual=True)))
    require(max(apart.values()) > SAME, f"computes what {subject.usual_name} computes, in training and in evaluation")
    said = ", ".join(f"{when} by {found:.0e}" for when, found in apart.items())
    return f"outputs or loss differ from {subject.usual_name}: {said}"


def _followed(subject: Subject) -> Model:
    """The component, with the same weights, behind batches in training."""
    model = subject.fresh()
    for step in range(20):
        logits(model, subject.inputs(2, 40, seed=step), train=True, step=step, keep=True)
        model.after_step()
    return model


def _apart(subject: Subject, model: Model, usual: Model) -> Iterator[float]:
    for length in (40, LONG):
        inputs = subject.inputs(2, length)
        targets = subject.targets(inputs)
        yield difference(logits(usual, inputs), logits(model, inputs))
        for step in (0, LATE):
            yield difference(loss(usual, inputs, targets, step=step), loss(model, inputs, targets, step=step))


def counts(subject: Subject) -> str:
    """Knocked out, each module of it changes the outputs: what it gives is not thrown away."""
    name, model, inputs = subject.axis.name, subject.model(), subject.inputs(2, 70)
    before = logits(model, inputs)
    sizes: dict[str, float] = {}
    if name in _STAND_INS:
        if subject.is_usual and name in ("layer_fusion", "residual"):
            raise Skipped("it is what is left where the axis is knocked out")
        other = subject.fresh()
        _STAND_INS[name](other)
        sizes[name] = difference(before, logits(other, inputs))
    elif name in ("attention", "feed_forward", "activation", "norm"):
        for place, module in subject.own(model).items():
            with _silenced(module) as called:
                found = difference(before, logits(model, inputs))
            if called:
                sizes[place] = found
    else:
        raise Skipped(f"of {name}, the comparison with {subject.usual_name} is the knock-out")
    if not sizes:
        raise Failed("no module of it is called in a pass")
    least = min(sizes, key=lambda place: sizes[place])
    if _is_none_of_positions(subject, model):
        raise Skipped("it gives no position")
    require(sizes[least] > 1e-6, f"knocking out {least} changes the outputs by {sizes[least]:.0e} of their size")
    return f"knocked out, each of {len(sizes)} changes the outputs by {sizes[least]:.2g} of their size or more"


def _is_none_of_positions(subject: Subject, model: Model) -> bool:
    if subject.axis.name != "position":
        return False
    own = type(model.position)
    inherited = all(getattr(own, each) is getattr(Position, each) for each in ("add", "rotate"))
    return inherited and model.position.slopes is None


def _no_position(model: Model) -> None:
    model.position = Position()
    for module in model.modules():
        if getattr(module, "slopes", None) is not None and isinstance(module, nn.Module):
            cast(Any, module).slopes = None


def _no_fusion(model: Model) -> None:
    spec = type("Layers", (), {"n_layers": len(model.blocks), "causal": model.causal})
    model.layer_fusion = LastLayer(cast(Any, spec))


def _no_residual(model: Model) -> None:
    """The state stays as it is, whatever the part makes of it."""
    for _, block in model.layers():
        for each in (block.attention_residual, block.feed_forward_residual):
            each.forward = lambda state, part: state  # type: ignore[method-assign]


_STAND_INS = {"position": _no_position, "layer_fusion": _no_fusion, "residual": _no_residual}


@contextmanager
def _silenced(module: nn.Module) -> Iterator[list[bool]]:
    """Within it the module gives zeros; the value fills when it is called."""
    called: list[bool] = []

    def hook(module: nn.Module, args: object, out: Any) -> Any:
        called.append(True)
        return torch.zeros_like(out) if isinstance(out, Tensor) else out

    handle = module.register_forward_hook(hook)
    try:
        yield called
    finally:
        handle.remove()


def parameters_count(subject: Subject) -> str:
    """Another value of each of its parameters changes outputs, or the loss in training: none is there for show."""
    model = subject.fresh()
    named = subject.own_parameters(model)
    if not named:
        raise Skipped("it has no parameters")
    tried = [subject.inputs(2, length) for length in (70, LONG)]
    before, least = [list(_answers(subject, model, given)) for given in tried], float("inf")
    for name, parameter in named.items():
        if name.endswith(WITHOUT):
            continue
        kept, found = parameter.detach().clone(), 0.0
        with torch.no_grad():
            parameter.mul_(-0.7).add_(0.3)
            for given, answers in zip(tried, before, strict=True):  # each where those before show nothing
                if found <= COUNTS:
                    found = _first_apart(answers, _answers(subject, model, given))
            parameter.copy_(kept)
        require(found > COUNTS, f"{name}: another value of it changes neither outputs nor the loss in training")
        least = min(least, found)
    return f"each of {len(named)} moves outputs or the loss, by {least:.0e} of their size or more"


def _first_apart(answers: list[Tensor], others: Iterator[Tensor]) -> float:
    """The difference of the first two that differ; those behind them are not computed."""
    return next((found for one in answers if (found := difference(one, next(others))) > COUNTS), 0.0)


def _answers(subject: Subject, model: Model, inputs: Inputs) -> Iterator[Tensor]:
    """Outputs, and the loss in training."""
    yield logits(model, inputs)
    with torch.no_grad():
        yield loss(model, inputs, subject.targets(inputs))


def identity(subject: Subject) -> str:
    """Where it says that training starts as if it were not there, outputs at the start are those without it."""
    model = subject.model(stirred=False)
    said = _claim(subject, model)
    if said is None:
        raise Skipped("claims no such start (in its docstring, or by `starts_as`)")
    usual = subject.model(stirred=False, usual=True)
    inputs = subject.inputs(2, 70)
    own, found = logits(model, inputs), {}
    found[subject.usual_name] = difference(logits(usual, inputs), own)
    silent = subject.build().double()
    for module in subject.own(silent).values():
        module.register_forward_hook(
            lambda module, args, out: torch.zeros_like(out) if isinstance(out, Tensor) else out
        )
    if subject.axis.name in ("attention", "feed_forward"):
        found["adding nothing"] = difference(logits(silent, inputs), own)
    elif subject.axis.name in ("norm", "activation"):
        through = subject.build().double()
        for module in subject.own(through).values():
            module.register_forward_hook(lambda module, args, out: args[0] if args[0].shape == out.shape else out)
        found["passing its input on"] = difference(logits(through, inputs), own)
    nearest = min(found, key=lambda each: found[each])
    require(
        found[nearest] <= 1e-5,
        f"says '{said}', but at the start outputs differ by {found[nearest]:.1e} of their size from {nearest}",
    )
    return f"at the start as {nearest}, to {found[nearest]:.0e} of the size of outputs"


def _claim(subject: Subject, model: Model) -> str | None:
    """What it says of its start: by an attribute, or in the docstring of its class or a base of the user's."""
    for module in subject.own(model).values():
        for each in module.modules():
            if isinstance(each, StartsAs) and each.starts_as:
                return f"starts_as = {each.starts_as}"
    for module in subject.own(model).values():
        for each in (module, getattr(module, "core", module)):
            found = IDENTITY.search(type(each).__doc__ or "")
            if found and not re.search(r"\b(not|near|nearly|almost)\b", found[0]):
                return " ".join(found[0].split())
    return None
