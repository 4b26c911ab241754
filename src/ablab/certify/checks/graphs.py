"""Whether `torch.compile` can have it, and gives the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ablab.certify.outcomes import Failed, require
from ablab.certify.passes import LATE, Model, difference, stir
from ablab.certify.subject import Subject
from ablab.errors import UserError
from ablab.tasks.base import Inputs
from ablab.training.compile import cause_of, compile_breaks

LENGTH = 24
ROUNDING = 1e-7


def compiles(subject: Subject) -> str:
    """Compiled, in one graph unless it says why not, outputs and gradients are the same."""
    said = _reason(subject)
    try:
        worst = _compared(subject, fullgraph=said is None)
    except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        if said is not None:
            raise
        raise Failed(
            f"torch.compile cannot have it in one graph: {cause_of(error)}; one that must break says why, by "
            '`breaks_graph = "..."`'
        ) from error
    finally:
        torch.compiler.reset()
    way = "in one graph" if said is None else f"in several graphs ({said})"
    return f"{way}: outputs and gradients differ by at most {worst:.0e}"


def _reason(subject: Subject) -> str | None:
    """Why it says that no single graph can hold it."""
    if subject.several:
        return "each sample is looked at for modalities that are missing"
    return next(filter(None, map(compile_breaks, subject.own(subject.model()).values())), None)


def _compared(subject: Subject, fullgraph: bool) -> float:
    torch.compiler.reset()
    plain, model = (stir(_shallow(subject).double()) for _ in range(2))
    compiled: Any = torch.compile(model, backend="eager", fullgraph=fullgraph)
    worst = 0.0
    inputs = subject.inputs(2, LENGTH)
    expected, found = _step(subject, plain, plain, inputs), _step(subject, model, compiled, inputs)
    for name, one in expected.items():
        apart = difference(one, found[name]) if one.abs().max() > 1e-12 else 0.0
        require(apart <= ROUNDING, f"compiled, {name} differs by {apart:.1e} of its size")
        worst = max(worst, apart)
    return worst


def _shallow(subject: Subject) -> Model:
    """A model of one layer, whose graph is traced in half the time; of two where it needs them."""
    try:
        return subject.build(keyed=False, n_layers=1)
    except (ValueError, UserError):
        return subject.build(keyed=False)


def _step(subject: Subject, model: Model, called: Any, inputs: Inputs) -> dict[str, Tensor]:
    """Outputs, penalty and gradients of a step in training."""
    model.train()
    model.resample(LATE)
    out = called(inputs, targets=subject.targets(inputs))
    named = dict(model.named_parameters())
    total = out.square().mean() + model.penalty()
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    named_gradients = {f"the gradient of {name}": each for name, each in zip(named, found, strict=True)}
    return {"the output": out.detach(), **named_gradients}
