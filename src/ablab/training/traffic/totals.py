"""What one process has counted and measured so far, and what that of all processes comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

from ablab.results.communication import Collective, Communication, Process

# (kind, processes in the group) -> calls, bytes handed in, bytes sent
Counts = dict[tuple[str, int], tuple[int, int, float]]


@dataclass(kw_only=True)
class Totals:
    """One process's. `None`: not known."""

    counts: Counts = field(default_factory=dict)
    steps: int = 0
    timed_steps: int = 0
    train_s: float = 0.0  # of the timed steps
    computing_s: float | None = 0.0  # in them, of the thread that trains
    watched_steps: int = 0
    communicating_s: float | None = 0.0  # of the watched steps
    overlapped_s: float | None = 0.0  # in them, of the thread that trains
    peak_memory_bytes: int = 0


def summarise(backend: str, each: list[Totals], batch_shares: int | None = None) -> Communication | None:
    """The communication of a run whose processes have counted this; None before the first step."""
    steps = each[0].steps
    if not steps:
        return None
    kinds = list(dict.fromkeys(kind for one in each for kind in one.counts))
    collectives = [_collective(kind, each, steps) for kind in sorted(kinds)]
    communicating, overlapped = ([getattr(one, name) for one in each] for name in ("communicating_s", "overlapped_s"))
    known = each[0].watched_steps and None not in communicating
    return Communication(
        processes=len(each),
        backend=backend,
        steps=steps,
        batch_shares=batch_shares,
        collectives=collectives,
        collectives_per_step=sum(one.calls_per_step for one in collectives),
        payload_bytes_per_step=sum(one.payload_bytes_per_step for one in collectives),
        sent_bytes_per_step=sum(one.sent_bytes_per_step for one in collectives),
        communication_s_per_step=fmean(communicating) / each[0].watched_steps if known else None,
        overlap=_share(overlapped, communicating) if known and None not in overlapped else None,
        each=[_process(one) for one in each],
    )


def _collective(kind: tuple[str, int], each: list[Totals], steps: int) -> Collective:
    calls, payload, sent = (
        fmean(values) / steps for values in zip(*(one.counts.get(kind, (0, 0, 0.0)) for one in each), strict=True)
    )
    return Collective(
        kind=kind[0],
        group=kind[1],
        calls_per_step=calls,
        payload_bytes_per_step=payload,
        sent_bytes_per_step=sent,
    )


def _process(one: Totals) -> Process:
    timed = one.timed_steps
    return Process(
        peak_memory_bytes=one.peak_memory_bytes,
        payload_bytes_per_step=sum(payload for _, payload, _ in one.counts.values()) / one.steps,
        sent_bytes_per_step=sum(sent for _, _, sent in one.counts.values()) / one.steps,
        step_s=one.train_s / timed if timed else None,
        computing_s_per_step=one.computing_s / timed if timed and one.computing_s is not None else None,
    )


def _share(part: list[float], whole: list[float]) -> float | None:
    return min(sum(part) / sum(whole), 1.0) if sum(whole) else None
