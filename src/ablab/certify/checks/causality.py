"""Whether what is said of a token hangs on tokens behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.certify.outcomes import Failed, Skipped
from ablab.certify.subject import LONG, Subject, difference, first_place, logits

ROUNDING = 1e-9  # in double precision, of the size of the outputs
LENGTHS = (2, 17, 65, LONG)


def future(subject: Subject) -> str:
    """Other tokens behind a place change nothing before it: in evaluation and in training, at several lengths."""
    if subject.several:
        raise Skipped("a model of several modalities is not causal")
    model, largest, count = subject.model(), 0.0, 0
    for train in (False, True):
        for length in LENGTHS:
            ids = _ids(subject, length)
            before = logits(model, ids, train=train)
            for place in sorted({1, length // 3, length // 2, length - 1} - {0}):
                changed = torch.cat([ids[:, :place], _ids(subject, length, 1)[:, place:]], 1)
                after = logits(model, changed, train=train)
                found = difference(before[:, :place], after[:, :place])
                if found > ROUNDING:
                    where = first_place(before[:, :place], after[:, :place], ROUNDING)
                    mode = "training" if train else "evaluation"
                    raise Failed(
                        f"in {mode}, of {length} tokens, those from {place} on change outputs before them by "
                        f"{found:.1e} of their size; first at {where}"
                    )
                largest, count = max(largest, found), count + 1
    return f"outputs before {count} places in both modes: at most {largest:.0e} (rounding of float64)"


def _ids(subject: Subject, length: int, seed: int = 0) -> Tensor:
    ids = subject.inputs(2, length, seed)
    assert isinstance(ids, Tensor)
    return ids
