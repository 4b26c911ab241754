"""Communication between the processes of a run, as the record holds it."""

from __future__ import annotations

from dataclasses import dataclass, field

# Mechanism metrics that are measured in time, and so differ between two runs of the same config.
MEASURED = ("strategy/communication_s_per_step", "strategy/overlap")


@dataclass(kw_only=True)
class Collective:
    """The collectives of one kind in groups of one size: of one process and step, mean over both."""

    kind: str  # "all-reduce", "all-gather", "reduce-scatter", ...
    group: int  # processes that take part
    calls_per_step: float
    payload_bytes_per_step: float  # what the process hands in: of an all-gather its own shard
    sent_bytes_per_step: float  # what it sends to others, by the algorithm that sends least (a ring)


@dataclass(kw_only=True)
class Process:
    """One process of the run. Its times are of training steps without the first ones, None where not known."""

    peak_memory_bytes: int  # measured as `Cost.peak_memory_method` says
    payload_bytes_per_step: float
    sent_bytes_per_step: float
    step_s: float | None = None  # of a training step
    computing_s_per_step: float | None = None  # in which the thread that trains had a core; the rest it waited


@dataclass(kw_only=True)
class Communication:
    """Traffic that one process handed to collectives in a training step, mean over processes and steps.

    Evaluation, checkpoints and set-up are left out.
    """

    processes: int
    backend: str  # "gloo", "nccl"
    steps: int  # that were counted
    batch_shares: int | None = (
        None  # into which each batch is cut: as many as processes, unless these share out the model
    )
    collectives: list[Collective] = field(default_factory=list)
    collectives_per_step: float = 0.0
    payload_bytes_per_step: float = 0.0
    sent_bytes_per_step: float = 0.0
    communication_s_per_step: float | None = None  # with one or more under way; of some stretches of steps
    overlap: float | None = None  # the share of that time in which the thread that trains computed
    each: list[Process] = field(default_factory=list)  # by rank
