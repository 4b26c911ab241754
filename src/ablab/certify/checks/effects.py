"""Whether each of its settings has an effect: none is accepted and then left alone."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ablab.certify.outcomes import Skipped, require
from ablab.certify.passes import LATE, Model, Trained, difference, logits, loss, stir
from ablab.certify.subject import LONG, Subject
from ablab.config.signature import hints_of, settings_of
from ablab.config.targets import import_target
from ablab.errors import UserError
from ablab.model.protocols import SpeedSettings

LENGTH = 96
WITH = {"dropout": 0.3}  # beside it a setting of what is dropped can show
STEPS = (0, 60, LATE)  # in and behind warm-ups
APART = 1e-9
ENOUGH = 2  # values that are taken, without effect; of one alone it may be what null stands for


def effects(subject: Subject) -> str:
    """Another value of each setting changes parameters, outputs, the loss, or what training makes of them."""
    target = import_target(subject.axis.name, subject.node["_target_"])
    if not inspect.isclass(target):
        raise Skipped("it is a function, which makes other options")
    speed = _of_speed(subject)
    values = {name: value for name, value in _settings(subject, target).items() if name not in speed}
    if not values:
        raise Skipped("it has no settings")
    hints = hints_of(subject.node["_target_"])
    others = {name: [*dict.fromkeys(_others(value, hints.get(name)))] for name, value in values.items()}
    plain = _Plain(subject)
    tried, beyond = 0, []
    for name, value in values.items():
        found = [_moves(subject, name, each, {}, plain) for each in others[name]]
        known = [each for each in found if each is not None]
        if not any(known) and len(known) < min(ENOUGH, max(1, len(others[name]))):
            beyond.append(name)
            continue
        require(
            any(known) or _moves_in_company(subject, name, others, plain),
            f"{name}: nothing hangs on it ({value!r}, and {', '.join(map(repr, others[name]))} tried, alone and beside "
            "other values of other settings); a setting of speed or memory alone is named in `speed_settings`",
        )
        tried += 1
    rest = f"; not tried: {', '.join(beyond)}" if beyond else ""
    return f"{tried} settings change what it is or does{rest}" + (
        f"; of speed alone: {', '.join(speed)}" if speed else ""
    )


def _of_speed(subject: Subject) -> list[str]:
    """The settings that it says leave its function alone."""
    found: list[str] = []
    for module in subject.own(subject.model()).values():
        for each in module.modules():
            if isinstance(each, SpeedSettings):
                found += [name for name in each.speed_settings if name not in found]
    return found


def _settings(subject: Subject, target: Any) -> dict[str, Any]:
    """Those that have a value, in the config or by default."""
    taken = settings_of(target)
    defaults = {name: each.default for name, each in taken.items() if each.default is not each.empty}
    own = {name: subject.node.get(name, defaults.get(name)) for name in taken if name not in subject.axis.supplied}
    return {name: value for name, value in own.items() if name in subject.node or name in defaults}


def _others(value: Any, hint: Any) -> Iterator[Any]:
    """Other values of a setting."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for kind in kinds:
        if typing.get_origin(kind) is typing.Literal:
            yield from (each for each in typing.get_args(kind) if each != value)
    if isinstance(value, bool) or (value is None and bool in kinds):
        yield not value
    elif isinstance(value, int):
        yield from (each for each in (value // 2, value + 1, 2 * value) if each != value)
    elif isinstance(value, float):
        yield from (each for each in (value / 2, 2 * value, value + 0.25) if each != value)
    elif value is None:
        yield from ([2, 3, 6, 16] if int in kinds else [0.5, 2.0] if float in kinds else [])


class _Plain:
    """What it does with some settings, computed once."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._known: dict[str, list[Tensor] | None] = {}

    def __call__(self, settings: dict[str, Any]) -> list[Tensor] | None:
        """Its answers; None where the settings are refused."""
        key = repr(settings)
        if key not in self._known:
            try:
                self._known[key] = list(_answers(self._subject, settings))
            except (UserError, ValueError):
                self._known[key] = None
        return self._known[key]


def _moves_in_company(subject: Subject, name: str, others: dict[str, list[Any]], plain: _Plain) -> bool:
    """Whether it has an effect beside another value of another setting, as what belongs to one choice alone."""
    beside = [{other: value} for other, value in WITH.items() if other in others]
    beside += [{other: value} for other, each in others.items() if other not in WITH for value in each[:2]]
    beside.sort(key=lambda each: not isinstance(next(iter(each.values())), str | bool))  # choices first
    return any(
        _moves(subject, name, value, company, plain)
        for company in beside
        if name not in company
        for value in others[name]
    )


def _moves(subject: Subject, name: str, value: Any, company: dict[str, Any], plain: _Plain) -> bool | None:
    """Whether that value changes anything; None where it is refused."""
    before = plain(company)
    if before is None:
        return None
    try:
        answers = _answers(subject, {**company, name: value})
        return any(difference(one, next(answers)) > APART for one in before)
    except (UserError, ValueError):
        return None


def _stirred(subject: Subject, settings: dict[str, Any], louder: float) -> Model:
    model = stir(subject.build(settings=settings).double())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(louder if parameter.ndim > 1 else 1.0)
    return model


def _answers(subject: Subject, settings: dict[str, Any]) -> Iterator[Tensor]:
    """What it is, and what it does, in the order of cost."""
    model: Model = subject.build(settings=settings).double()
    with torch.no_grad():
        yield torch.tensor([float(p.numel()) for p in model.parameters()]).sum().reshape(1)
        yield torch.stack([p.abs().sum() for p in model.parameters()])[: len(list(subject.model().parameters()))]
    inputs = subject.inputs(2, LENGTH)
    targets = subject.targets(inputs)
    yield logits(model, inputs)
    for louder in (1.0, 4.0):  # bounds bind large numbers alone
        yield logits(_stirred(subject, settings, louder), inputs)
    for step in STEPS:
        with torch.no_grad():
            yield loss(model, inputs, targets, step=step).reshape(1)
            yield logits(model, inputs, train=True, step=step)
    value = loss(model, inputs, targets)
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    yield torch.stack([each.abs().sum() for each in found])
    long = subject.inputs(2, LONG)  # of which choices leave something out
    for train in (False, True):
        yield logits(_stirred(subject, settings, 1.0), long, train=train)
    trained = Trained(subject, model)
    yield torch.tensor(trained.take(3))
    yield logits(model, inputs)
