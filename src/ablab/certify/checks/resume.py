"""Whether a run can stop and go on: what it remembers is in a checkpoint, or follows from the step."""

from __future__ import annotations

import io
from typing import Any

import torch

from ablab.certify.checks.causality import said
from ablab.certify.outcomes import Failed, Skipped, require
from ablab.certify.passes import LATE, Trained, as_dtype, copied, difference, logits
from ablab.certify.subject import Subject

STOP, END = 3, 6


def resumes(subject: Subject) -> str:
    """Stopped, written to a file, and read by a new model, training goes on bit for bit as if it had not stopped."""
    whole = Trained(subject, subject.build())
    whole.take(STOP)
    written = io.BytesIO()
    torch.save({"model": whole.model.state_dict(), "optimizer": whole.optimizer.state_dict()}, written)
    expected = whole.take(END - STOP)
    written.seek(0)
    state: Any = torch.load(written, weights_only=True)
    again = Trained(subject, subject.build())
    _load(again, state)
    again.step = STOP
    found = again.take(END - STOP)
    for step, (one, other) in enumerate(zip(expected, found, strict=True), STOP):
        require(one == other, f"stopped at step {STOP} and resumed, the loss at step {step} is {other!r}, not {one!r}")
    _check_same(whole, again)
    evaluated = [logits(each.model, _inputs(subject, each)) for each in (whole, again)]
    require(torch.equal(*evaluated), f"resumed, outputs in {said(False, LATE)} differ by {difference(*evaluated):.1e}")
    return (
        f"stopped at step {STOP} of {END}: losses, {len(state['model'])} tensors and outputs are the same bit for bit"
    )


def _inputs(subject: Subject, trained: Trained) -> Any:
    return as_dtype(subject.inputs(2, 40), trained.model)


def _load(trained: Trained, state: Any) -> None:
    try:
        trained.model.load_state_dict(state["model"])
        trained.optimizer.load_state_dict(state["optimizer"])
    except RuntimeError as error:
        raise Failed(f"a new model does not take the state of a trained one: {str(error).splitlines()[-1]}") from error


def _check_same(whole: Trained, again: Trained) -> None:
    ours, theirs = whole.model.state_dict(), again.model.state_dict()
    for name, value in ours.items():
        require(torch.equal(value, theirs[name]), f"stopped and resumed, {name} differs at step {END}")


def copies(subject: Subject) -> str:
    """A copy of a model that has trained computes the same, and what happens to it does not touch the first."""
    model = Trained(subject, subject.build())
    model.take(2)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    inputs = _inputs(subject, model)
    model.model.zero_grad()
    try:
        twin = copied(model.model)
    except Exception as error:  # of what a pass has left; nothing that a run does hangs on it
        raise Skipped(f"cannot be copied once it has trained ({type(error).__name__})") from error
    require(torch.equal(logits(twin, inputs), logits(model.model, inputs)), "a copy computes something else")
    Trained(subject, twin).take(2)
    for name, value in model.model.state_dict().items():
        require(torch.equal(value, before[name]), f"training a copy changes {name} of the first")
    return "a copy computes the same bit for bit, and is trained by itself"
