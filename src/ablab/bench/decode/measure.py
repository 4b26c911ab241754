"""Prompts and single tokens, timed in rounds in which all models take turns."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ablab.bench.attention.results import first_line
from ablab.bench.decode.entries import Entry, Session
from ablab.bench.layers.measure import Effort, in_rounds

TOLERANCE = 1e-3  # of the largest logit, in single precision

Kind = str  # "prefill", seconds of a whole prompt, or "token", seconds of one more token


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One model at one length: seconds of each round, or why there are none."""

    entry: str
    ours: bool
    kind: Kind
    batch: int
    length: int
    seconds: tuple[float, ...] = ()
    nbytes: int | None = None  # that are kept of all samples
    skipped: str = ""

    @property
    def median_s(self) -> float:
        return median(self.seconds)


def measure(
    entries: Sequence[Entry], words: int, batch: int, length: int, steps: int, effort: Effort
) -> Iterator[Timed]:
    """Yield what was timed of all models: a prompt of so many tokens, and each of the `steps` tokens behind it.

    In every round they are the first ones behind the prompt.
    """
    tokens = torch.randint(words, (batch, length), generator=torch.Generator().manual_seed(length))
    capacity = length + steps
    sessions, skipped = _started(entries, tokens, capacity)
    left = [entry for entry in entries if entry.name in sessions]
    prefill = in_rounds({each.name: _prefill(each, tokens, length) for each in left}, effort)
    decode = {each.name: _decode(sessions[each.name], tokens[:, -1:], steps) for each in left}
    for session in sessions.values():
        session.mark()
    token = in_rounds(decode, effort, after={name: session.back for name, session in sessions.items()})
    for entry in entries:
        for kind, seconds, divisor in (("prefill", prefill, 1), ("token", token, steps)):
            yield Timed(
                entry=entry.name, ours=entry.ours, kind=kind, batch=batch, length=length,
                seconds=tuple(each / divisor for each in seconds.get(entry.name, ())),
                nbytes=_bytes(entry, batch, length) if entry.name in sessions else None,
                skipped=skipped.get(entry.name, ""),
            )  # fmt: skip
    gc.collect()


def _started(entries: Sequence[Entry], tokens: Tensor, capacity: int) -> tuple[dict[str, Session], dict[str, str]]:
    """Sessions that have taken in the prompt, and why others have not."""
    sessions: dict[str, Session] = {}
    skipped: dict[str, str] = {}
    logits: dict[str, Tensor] = {}
    for entry in entries:
        try:
            session = entry.start(len(tokens), capacity)
            logits[entry.name] = session.extend(tokens)
            if (beside := logits.get(entry.beside)) is not None:
                error = float((logits[entry.name] - beside).abs().max() / beside.abs().max())
                if not error <= TOLERANCE:
                    raise ValueError(f"gives something else: off by {error:.1e} of the largest logit")
            sessions[entry.name] = session
        except Exception as error:  # a peer may raise whatever it likes
            skipped[entry.name] = first_line(error)
    return sessions, skipped


def _bytes(entry: Entry, batch: int, length: int) -> int | None:
    return entry.start(batch, length).nbytes


def _prefill(entry: Entry, tokens: Tensor, length: int) -> Callable[[], object]:
    return lambda: entry.start(len(tokens), length).extend(tokens)


def _decode(session: Session, token: Tensor, steps: int) -> Callable[[], object]:
    def run() -> None:
        for _ in range(steps):
            session.extend(token)

    return run
