"""Whether what is said of a token hangs on tokens behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ablab.certify.outcomes import Failed, Skipped, require
from ablab.certify.passes import LATE, Model, difference, first_place, in_mode, logits
from ablab.certify.subject import LONG, Subject

ROUNDING = 1e-9  # in double precision, of the size of the outputs
MODES = ((False, LATE), (True, 0), (True, LATE))  # whether it trains, and at which step


def future(subject: Subject) -> str:
    """Other tokens behind a place, padding there, or nothing at all, change nothing before it, in either mode."""
    _require_causal(subject)
    model, largest, count = subject.model(), 0.0, 0
    for train, step in MODES:
        for length in (2, 65, LONG):
            ids = tokens(subject, length, batch=3)
            before = logits(model, ids, train=train, step=step)
            for how, places, after in _changed(subject, model, ids, train, step):
                for row, place in enumerate(places):
                    one, other = before[row, None, :place], after[row, None, :place]
                    found = difference(one, other)
                    if found > ROUNDING:
                        where = first_place(one, other, ROUNDING).partition(", ")[2]
                        raise Failed(
                            f"in {said(train, step)}, of {length} tokens, {how} from token {place} on changes outputs "
                            f"before it by {found:.1e} of their size; first at {where}"
                        )
                    largest, count = max(largest, found), count + 1
    return (
        f"{count} changes behind a place, in training and evaluation: outputs before it move by at most {largest:.0e}"
    )


def _changed(
    subject: Subject, model: Model, ids: Tensor, train: bool, step: int
) -> Iterator[tuple[str, Sequence[int], Tensor]]:
    """What is made of sequences that are the same before a place alone, each sample's own, and what was done there."""
    length, place = ids.shape[1], torch.arange(ids.shape[1])
    places = (length - 1, max(1, length // 2), max(1, length // 3))
    behind = torch.stack([place >= each for each in places])
    others = tokens(subject, length, 1, len(ids))
    yield "other tokens", places, logits(model, torch.where(behind, others, ids), train=train, step=step)
    if train and draws(model, ids):
        return  # a mask of another shape is another draw
    yield "padding", places, logits(model, ids, behind, train=train, step=step)
    cut = places[0] if length == LONG else places[1]  # sequences that are short enough are attended to in full
    yield "nothing", (cut,) * len(ids), logits(model, ids[:, :cut], train=train, step=step)


def gradients_of_future(subject: Subject) -> str:
    """No derivative of an output with respect to what went in behind it: exactly none, not merely a small one."""
    _require_causal(subject)
    model, largest = subject.model(), 0.0
    ids, places = tokens(subject, 70), (0, 1, 33, 64, 68)
    for train, step in MODES:
        seen: list[Tensor] = []

        def keep(module: torch.nn.Module, args: object, out: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(out.detach().requires_grad_())
            return seen[-1]

        handle = model.embedding.register_forward_hook(keep)
        try:
            with in_mode(model, train=train, step=step):
                out = model(ids)
        finally:
            handle.remove()
        for place in places:
            (reached,) = torch.autograd.grad(out[:, place].sum(), seen[0], retain_graph=True)
            size = reached.abs().max().clamp(min=1e-30)
            found = float(reached[:, place + 1 :].abs().max() / size)
            if found > ROUNDING:
                behind = place + 1 + int(reached[:, place + 1 :].abs().amax((0, 2)).gt(ROUNDING * size).nonzero()[0, 0])
                raise Failed(
                    f"in {said(train, step)}, the output of token {place} has a derivative with respect to token "
                    f"{behind}: {found:.1e} of the largest"
                )
            largest = max(largest, found)
    return f"d out[t] / d in[s] for s > t at {len(places)} places in both modes: at most {largest:.0e} of the largest"


def targets_unseen(subject: Subject) -> str:
    """Logits are the same whatever the targets are, and without any: targets are for the loss alone."""
    model, inputs = subject.model(), subject.inputs(2, 40)
    largest = 0.0
    for train in (False, True):
        found = []
        for seed in (0, 1, None):
            with torch.no_grad(), in_mode(model, train=train):
                asked = None if seed is None else subject.targets(inputs, seed)
                found.append(model(inputs, targets=asked))
        largest = max(largest, *(difference(found[0], other) for other in found[1:]))
        require(largest <= ROUNDING, f"in {said(train, LATE)}, other targets change the logits by {largest:.1e}")
    return f"logits with these, with other and without targets differ by at most {largest:.0e}"


def said(train: bool, step: int) -> str:
    """A mode in words."""
    if not train:
        return "evaluation"
    return "training" if step else "training at step 0"


def draws(model: Model, inputs: object) -> bool:
    """Whether two passes in training differ by what is drawn."""
    one, other = (logits(model, inputs, train=True, key=key) for key in (0, 1))  # type: ignore[arg-type]
    return not torch.equal(one, other)


def tokens(subject: Subject, length: int, seed: int = 0, batch: int = 2) -> Tensor:
    """Random tokens (B, T)."""
    ids = subject.inputs(batch, length, seed)
    assert isinstance(ids, Tensor)
    return ids


def _require_causal(subject: Subject) -> None:
    if subject.several:
        raise Skipped("a model of several modalities gives one answer for all of its input")
