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
SHORT = 70
# Where a long sequence is cut: at blocks of all usual sizes, and beside them, where what is off by one shows; of short
# ones every place is looked at.
BLOCKS = tuple(range(32, LONG - 1, 32))
EDGES = tuple(sorted({at + off for at in BLOCKS for off in (-1, 0, 1)} | {*range(16, LONG, 32), 100, 200}))
SLICE = 18  # samples of a pass


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
    ids = tokens(subject, LONG)
    otherwise = not torch.equal(logits(model, ids), logits(model, ids, train=True))
    for train, edges in ((False, EDGES), *([(True, BLOCKS)] if otherwise else [])):
        largest, count = max(largest, _at_edges(subject, model, train, edges)), count + len(edges)
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


def _at_edges(subject: Subject, model: Model, train: bool, edges: Sequence[int]) -> float:
    """Raises Failed where other tokens behind one of many places of a long sequence change outputs before it."""
    ids, others, place = tokens(subject, LONG, 2, 1), tokens(subject, LONG, 3, 1), torch.arange(LONG)
    largest = 0.0
    for first in range(0, len(edges), SLICE):
        some = edges[first : first + SLICE]
        behind = torch.stack([place >= each for each in some])
        before = logits(model, ids.repeat(len(some) if train else 1, 1), train=train)  # where each draws its own
        after = logits(model, torch.where(behind, others, ids), train=train)
        for row, edge in enumerate(some):
            one, other = before[row if train else 0, None, :edge], after[row, None, :edge]
            largest = max(largest, found := difference(one, other))
            if found > ROUNDING:
                where = first_place(one, other, ROUNDING).partition(", ")[2]
                raise Failed(
                    f"in {said(train, LATE)}, of {LONG} tokens, other tokens from token {edge} on change outputs "
                    f"before it by {found:.1e} of their size; first at {where}"
                )
    return largest


def gradients_of_future(subject: Subject) -> str:
    """No derivative of an output with respect to what went in behind it: exactly none, not merely a small one."""
    _require_causal(subject)
    model, largest = subject.model(), 0.0
    places = torch.arange(SHORT)
    ids = tokens(subject, SHORT, batch=1).repeat(SHORT, 1)  # each sample is asked for the output of another place
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
        (reached,) = torch.autograd.grad(out[places, places].sum(), seen[0])
        sizes = reached.abs().amax(-1)  # (output, input)
        shares = sizes.triu(1) / sizes.amax(-1, keepdim=True).clamp(min=1e-30)
        largest = max(largest, found := float(shares.max()))
        if found > ROUNDING:
            place, behind = shares.gt(ROUNDING).nonzero()[0].tolist()
            raise Failed(
                f"in {said(train, step)}, the output of token {place} has a derivative with respect to token "
                f"{behind}: {float(shares[place, behind]):.1e} of the largest"
            )
    return f"d out[t] / d in[s] for s > t at each of {SHORT} places in both modes: at most {largest:.0e} of the largest"


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
