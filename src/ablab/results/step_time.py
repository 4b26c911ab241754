"""A model of the time of a training step on devices joined by links of a given bandwidth and latency.

What is recorded of a run (`results.communication`) says what each process computes in a step, how long that takes, and
what it hands to collectives. From it, and nothing else, follows

    step = compute + communication - hidden

with these assumptions, each of which real networks break in some way:

* A message of S bytes takes a + S/B (Hockney 1994): latency a, bandwidth B in bytes of payload. Every device sends and
  receives at B at once, to whomever, undisturbed by others: one link to a device, and a switch that never blocks.
* Collectives are rings, which send least (Thakur, Rabenseifner and Gropp 2005, sections 4.1, 4.2 and 4.5; Patarasuk and
  Yuan 2009): see `transfer_s`. A library may choose another algorithm where latency decides, a tree for one: then it is
  faster there than said here.
* Collectives take place one after another.
* What computation a collective itself needs (sums, copies) is none, or part of `compute`.
* Communication is hidden behind computation for a share of its time that is a property of the strategy (what can be
  sent before a pass has ended, and what cannot), and for no longer than there is computation. That share is the
  `overlap` that was measured. `Step.shortest` and `Step.longest` are free of this assumption: all that can be is
  hidden, or nothing.

More devices (`on_devices`) are weak scaling: each takes as many samples as it took, so that `compute` stays. By what
was recorded:

* Every process takes a share of the batch, and so every group of all processes becomes one of all devices. Where
  processes share out the model instead, wholly or in part (tensor, pipeline, hybrid), the record does not say which
  of its collectives would grow how, and no extrapolation is made.
* What a process hands to an all-reduce, a reduce-scatter, a broadcast stays: it is as large as the model.
* Where there are reduce-scatters, processes hold shares of the model, and what an all-gather brings together stays in
  all. Where there is none, a process contributes to an all-gather what it has found itself (the largest numbers of its
  gradient), and that stays: together they grow with the devices.
* Between meetings there are as many steps as there were.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ablab.results.communication import Collective, Communication


@dataclass(frozen=True)
class Link:
    """A link that joins a device to the others.

    Raises:
        ValueError: the bandwidth is not positive, or the latency is negative.
    """

    bytes_per_s: float  # of payload, in each direction
    latency_s: float = 0.0  # of a message, from one process to another

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0:
            raise ValueError(f"bytes_per_s={self.bytes_per_s}: must be positive")
        if not self.latency_s >= 0:
            raise ValueError(f"latency_s={self.latency_s}: must not be negative")


@dataclass(frozen=True)
class Step:
    """Seconds of a training step, as the model has it."""

    compute_s: float
    communication_s: float
    overlap: float  # the share of communication that can go on beside computation, from 0 to 1

    @property
    def seconds(self) -> float:
        return self.longest - min(self.overlap * self.communication_s, self.compute_s)

    @property
    def shortest(self) -> float:
        return max(self.compute_s, self.communication_s)

    @property
    def longest(self) -> float:
        return self.compute_s + self.communication_s

    @property
    def efficiency(self) -> float:
        """Of a device, against one that need not wait for others."""
        return self.compute_s / self.seconds


def messages(kind: str, group: int) -> int:
    """Return how many messages follow on one another in a collective of so many processes.

    Raises:
        ValueError: another kind of collective.
    """
    if group < 2:
        return 0
    match kind:
        case "all-reduce":
            return 2 * (group - 1)
        case "all-gather" | "reduce-scatter" | "all-to-all":
            return group - 1
        case "broadcast" | "reduce" | "gather" | "scatter":
            return math.ceil(math.log2(group))
        case "send":
            return 1
    raise ValueError(f"{kind}: no collective that is known here")


def bytes_in_turn(kind: str, group: int, payload: float) -> float:
    """Return the bytes of these messages: of what is sent at the same time, the most.

    Args:
        payload: what each process hands in; of a scatter, what it is given. See `training.traffic.counter`.

    Raises:
        ValueError: another kind of collective.
    """
    if group < 2:
        return 0.0
    match kind:
        case "all-reduce":
            return 2 * (group - 1) / group * payload
        case "reduce-scatter" | "all-to-all":
            return (group - 1) / group * payload
        case "all-gather" | "gather" | "scatter":
            return (group - 1) * payload
        case "broadcast" | "reduce":
            return messages(kind, group) * payload  # a binomial tree
        case "send":
            return payload
    raise ValueError(f"{kind}: no collective that is known here")


def transfer_s(kind: str, group: int, payload: float, link: Link, calls: float = 1.0) -> float:
    """Return the seconds that collectives of one kind take.

        all-reduce of S          2 (n - 1) (a + S/(n B))
        reduce-scatter of S        (n - 1) (a + S/(n B)), and so an all-to-all
        all-gather of a shard s    (n - 1) (a + s/B)
        broadcast, reduce of S     ceil(log2 n) (a + S/B)
        gather, scatter of s       ceil(log2 n) a + (n - 1) s/B
        send of S                  a + S/B

    Args:
        kind: as `Collective.kind`.
        group: n, the processes that take part.
        payload: bytes that a process hands to all of these calls together.
        calls: how many; need not be whole, as a mean over steps.
    """
    return calls * messages(kind, group) * link.latency_s + bytes_in_turn(kind, group, payload) / link.bytes_per_s


def communication_s(collectives: Iterable[Collective], link: Link) -> float:
    """Return the seconds of a step's collectives, one after another."""
    return sum(
        transfer_s(each.kind, each.group, each.payload_bytes_per_step, link, each.calls_per_step)
        for each in collectives
    )


def step(compute_s: float, collectives: Iterable[Collective], overlap: float, link: Link) -> Step:
    """Return a step that computes for so long, hands over so much, and hides such a share of it."""
    return Step(compute_s, communication_s(collectives, link), min(max(overlap, 0.0), 1.0))


def on_devices(communication: Communication, devices: int) -> list[Collective] | None:
    """Return a step's collectives among so many devices; None where the record does not say how they would change."""
    known = communication.collectives
    if devices == communication.processes:
        return known
    if communication.batch_shares != communication.processes:
        return None
    if any(each.kind == "send" or each.group != communication.processes for each in known):
        return None
    sharded = any(each.kind == "reduce-scatter" for each in known)
    return [_regrouped(each, devices, sharded) for each in known]


def _regrouped(each: Collective, devices: int, sharded: bool) -> Collective:
    payload = each.payload_bytes_per_step
    if each.kind == "all-gather" and sharded:
        payload *= each.group / devices
    return replace(each, group=devices, payload_bytes_per_step=payload)
