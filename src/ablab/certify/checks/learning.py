"""Whether it trains: finite numbers, and gradients that are there, reach everything and are right."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ablab.certify.checks.building import of_sizes
from ablab.certify.outcomes import require
from ablab.certify.passes import LATE, Model, Trained, as_dtype, gradients, in_mode, loss
from ablab.certify.subject import LONG, LONGEST, Subject
from ablab.model.initialisation import keyed_generator
from ablab.model.protocols import Penalised, offering
from ablab.tasks.base import Inputs

STEPS = 12
FEW = 20  # tokens, of models of other sizes
# A constant in all scores of a query cancels in its softmax, so that this bias of the layer around a core has none.
WITHOUT = ("key.bias",)
EPS = 1e-6
AGREE = 1e-4
ATTEMPTS = 3


def runs(subject: Subject) -> str:
    """Forward and backward give finite numbers, at the start and after some steps, and the loss of a batch falls."""
    model = subject.build()
    for length in (_shortest(subject, model), 3, LONG):
        _check_finite(subject, model, length, "at the start")
    trained = Trained(subject, model)
    losses = trained.take(STEPS, fixed=True)
    require(all(map(math.isfinite, losses)), f"training: the loss is not finite at step {_first_bad(losses)}")
    require(
        losses[-1] < losses[0],
        f"training on one batch for {STEPS} steps, the loss goes from {losses[0]:.3f} to {losses[-1]:.3f}",
    )
    _check_finite(subject, model, LONG, f"after {STEPS} steps")
    for said, other in of_sizes(subject):
        _check_finite(subject, other, FEW, said)
    if False in subject.ways and not subject.several:
        _check_finite(subject, subject.build(causal=False), 65, "not causal, at the start")
    return f"finite at 1 to {LONG} tokens; {STEPS} steps on one batch: loss {losses[0]:.3f} to {losses[-1]:.3f}"


def _shortest(subject: Subject, model: Model) -> int:
    """1, or 2 where it says that it needs more."""
    inputs = as_dtype(subject.inputs(1, 1), model)
    try:
        loss(model, inputs, subject.targets(inputs))
    except ValueError:
        return 2
    return 1


def _first_bad(losses: list[float]) -> int:
    return next((step for step, value in enumerate(losses) if not math.isfinite(value)), -1)


def _check_finite(subject: Subject, model: Model, length: int, when: str) -> None:
    inputs = as_dtype(subject.inputs(2, length), model)
    targets = subject.targets(inputs)
    with torch.no_grad(), in_mode(model, train=False):
        out = model(inputs)
    rest = (1,) if subject.several else (length,)
    require(out.shape[:-1] == (2, *rest), f"{when}: outputs have the shape {tuple(out.shape)}")
    require(bool(out.isfinite().all()), f"{when}, {length} tokens: outputs are not finite")
    value = loss(model, inputs, targets)
    require(bool(value.isfinite()), f"{when}, {length} tokens: the loss in training is {value.item()}")
    for name, gradient in gradients(model, value).items():
        require(
            gradient is None or bool(gradient.isfinite().all()),
            f"{when}, {length} tokens: the gradient of {name} is not finite",
        )


def reached(subject: Subject) -> str:
    """Every parameter gets a gradient, and not one of zeros; nothing beside it has lost its own."""
    model, usual = subject.model(), subject.model(usual=True)
    own = subject.own_parameters(model)
    frozen = [name for name, each in own.items() if not each.requires_grad]
    require(not frozen, f"{', '.join(frozen)}: asks for no gradient; what is not to be learned is a buffer")
    _check_penalties(subject, model)
    sizes, touched = _reach(subject, model)
    theirs, _ = _reach(subject, usual)
    for name, size in sizes.items():
        if name.endswith(WITHOUT):
            continue
        if name in own or (theirs.get(name) or 0.0) > 0:
            require(size is not None, f"{name}: no gradient at all; the loss does not hang on it")
            beside = "" if name in own else f"; beside {subject.usual_name} it has one"
            require(size != 0, f"{name}: the gradient is zero for every input and step that was tried{beside}")
    tables = {name for name in own if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding)}
    whole = {name for name in own if name in touched and not name.endswith(WITHOUT)} - tables  # of rows that none asked
    parts = {name: _untouched(touched[name]) for name in own if name in whole}
    if any(parts.values()):
        tables = looked_up(model, _loss(subject, model))
        parts |= {name: _untouched(_asked(touched[name])) for name in whole & tables}
    dead = {name: share for name, share in parts.items() if share > 0}
    if dead:
        name, share = max(dead.items(), key=lambda each: each[1])
        require(
            share < 0.2,
            f"{name}: {share:.0%} of its numbers get no gradient from any input that was tried; of a "
            "table that tokens ask for rows by number, rows that none asks for are left out",
        )
    late = _never_learned(subject)
    require(not late, f"{', '.join(late)}: from the initial values no gradient comes in {STEPS} steps of training")
    rest = f"; at most {max(dead.values()):.0%} of a tensor without" if dead else ""
    return f"{len(own)} parameters of its own and {len(sizes) - len(own)} beside them get a gradient{rest}"


def _never_learned(subject: Subject) -> list[str]:
    """Parameters of the component whose gradient is zero from the start on, as of two gates in a row that are shut."""
    trained = Trained(subject, subject.build())
    waiting = {name: each for name, each in subject.own_parameters(trained.model).items() if not name.endswith(WITHOUT)}
    for _ in range(STEPS):
        trained.take(1)
        waiting = {name: each for name, each in waiting.items() if each.grad is None or not bool(each.grad.any())}
        if not waiting:
            break
    return list(waiting)


def _reach(subject: Subject, model: Model) -> tuple[dict[str, float | None], dict[str, Tensor]]:
    """The largest gradient of each parameter over several inputs and steps, and which of its numbers ever got one."""
    sizes: dict[str, float | None] = dict.fromkeys(name for name, _ in model.named_parameters())
    touched: dict[str, Tensor] = {}
    for seed, (length, step) in enumerate([(40, 0), (LONG, LATE), (LONGEST, 0), (LONGEST, LATE)]):
        inputs = subject.inputs(2, length, seed)
        value = loss(model, inputs, subject.targets(inputs, seed), step=step)
        for name, gradient in gradients(model, value).items():
            if gradient is not None:
                largest = float(gradient.abs().max()) if gradient.numel() else 0.0
                sizes[name] = max(sizes[name] or 0.0, largest if largest > 1e-14 else 0.0)
                touched[name] = touched.get(name, torch.zeros_like(gradient, dtype=torch.bool)) | (gradient != 0)
    return sizes, touched


def _loss(subject: Subject, model: Model) -> Tensor:
    inputs = subject.inputs(2, 40)
    return loss(model, inputs, subject.targets(inputs))


def looked_up(model: Model, value: Tensor) -> set[str]:
    """Tables (rows, width) of which a pass has taken rows by their numbers, and done nothing else with them."""
    names = {id(each): name for name, each in model.named_parameters() if each.ndim == 2}
    found, otherwise, seen = set[str](), set[str](), set[Any]()
    left = [value.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for before, _ in node.next_functions:
            if (name := names.get(id(getattr(before, "variable", None)))) is not None:
                (found if node.name().startswith(_LOOK_UPS) else otherwise).add(name)
            left.append(before)
    return found - otherwise


_LOOK_UPS = ("EmbeddingBackward", "IndexBackward", "IndexSelectBackward")


def _asked(touched: Tensor) -> Tensor:
    """The rows of a table that got any gradient; all, if none did."""
    rows = touched.flatten(1).any(1)
    return touched[rows] if bool(rows.any()) else touched


def _untouched(touched: Tensor) -> float:
    return float((~touched).double().mean()) if touched.numel() else 0.0


def _check_penalties(subject: Subject, model: Model) -> None:
    """What is added to the loss has a gradient: a number alone asks for nothing."""
    inputs = subject.inputs(2, 70)
    loss(model, inputs, subject.targets(inputs), penalties=False)  # each is asked once of a pass
    for name, part in offering(model, Penalised):
        value = part.penalty()
        mine = any(f"{name}.".startswith(f"{own}.") for own in subject.own(model))
        asks = not mine or not bool(value.detach().abs().max() > 0) or value.requires_grad
        require(asks, f"{name}: adds {float(value):.2e} to the loss, from which no parameter gets a gradient")


def differences(subject: Subject) -> str:
    """Gradients are those of finite differences, in double precision: for each parameter and for what goes in."""
    model, inputs = subject.fresh(), subject.inputs(2, 40)
    named = dict(subject.own_parameters(model))
    if not subject.several:
        named["embedding.weight"] = model.embedding.get_parameter("weight")
    worst, place = 0.0, ""
    before: list[Tensor | None] = []
    for train in (False, True):
        found = gradients(model, _number(model, inputs, train))
        if train and all(map(_alike, before, found.values())):
            break  # it trains as it evaluates
        before = list(found.values())
        for name, parameter in named.items():
            tries = range(ATTEMPTS)
            apart = next(
                (
                    each
                    for n in tries
                    if (each := _apart(model, inputs, name, parameter, found[name], train, n)) <= AGREE
                ),
                float("inf"),
            )
            require(
                apart <= AGREE,
                f"in {'training' if train else 'evaluation'}, the gradient of {name} is not that of finite differences "
                f"along any of {ATTEMPTS} random directions",
            )
            worst, place = max((worst, place), (apart, f" ({name})"))
    return f"{len(named)} tensors along random directions: apart by at most {worst:.0e}{place}"


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    return torch.equal(one, other) if one is not None and other is not None else one is other


def _number(model: Model, inputs: Inputs, train: bool) -> Tensor:
    """A fixed random combination of the outputs."""
    with in_mode(model, train=train):
        out: Tensor = model(inputs)
    return (out * torch.randn(out.shape, generator=keyed_generator("weights"), dtype=torch.float64)).sum()


def _apart(
    model: Model, inputs: Inputs, name: str, parameter: Tensor, gradient: Tensor | None, train: bool, attempt: int
) -> float:
    """How far the derivative along a random direction is from the central difference, relative to the larger."""
    generator = keyed_generator("direction", name, attempt)
    direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    direction /= direction.norm().clamp(min=1e-30)
    along = 0.0 if gradient is None else float((gradient * direction).sum())
    ends = []
    with torch.no_grad():
        before = parameter.detach().clone()
        for sign in (1, -1):
            parameter.copy_(before + sign * EPS * direction)
            ends.append(float(_number(model, inputs, train)))
        parameter.copy_(before)
    slope = (ends[0] - ends[1]) / (2 * EPS)
    noise = 1e-13 * max(abs(end) for end in ends) / EPS
    return max(0.0, abs(slope - along) - noise) / max(abs(slope), abs(along), 1e-6)
