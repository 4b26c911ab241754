"""What a process of a run leaves behind when it fails, and which of several failures was the first cause.

When one process of a run fails, the others fail, too: they lose their connection to it. So each leaves what it knows in
a small file in the run's folder, and whoever writes the record chooses among them.
"""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from ablab.config.redact import redact_text
from ablab.errors import UserError
from ablab.results.record import Cause, Record
from ablab.results.store import write_atomically
from ablab.training.stacks import shorter

KEPT_LINES = 40  # of a traceback, the last ones
_FILES = ".failure-{}.json"

# What gloo, NCCL and torch's store say when another process is gone or does not answer.
_LOST = (
    *("connection closed by peer", "connection reset by peer", "connection refused", "broken pipe", "socket timeout"),
    *("gloo/transport", "gloo error", "timed out waiting", "application timeout", "nccl", "failed to connect"),
    *("failed to recv", "failed to send", "store timeout", "wait timeout", "socket error", "connection was likely"),
)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One process's own account of its failure."""

    rank: int
    reason: str  # one line
    cause: Cause
    traceback: str  # its last lines
    at: float  # seconds since the epoch
    lost: bool  # whether it is merely about another process that is gone, or does not answer


def failure_of(error: BaseException, rank: int, secrets: frozenset[str] = frozenset()) -> Failure:
    """Return what there is to say of an error, without `secrets` and those that their names tell."""
    return Failure(
        rank=rank,
        reason=redact_text(describe(error), secrets),
        cause=cause_of(error),
        traceback="" if isinstance(error, UserError) else redact_text(last_lines(_without_marks(error)), secrets),
        at=time.time(),
        lost=is_lost_connection(error),
    )


def leave(folder: Path, failure: Failure) -> None:
    """Write it where `failures_in` finds it. That a disk is full must not hide the failure itself."""
    with contextlib.suppress(OSError):
        write_atomically(folder / _FILES.format(failure.rank), json.dumps(asdict(failure)))


def failures_in(folder: Path) -> list[Failure]:
    """What the processes of the run have left, in the order of time."""
    found = []
    for path in folder.glob(_FILES.format("*")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(Failure(**json.loads(path.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda failure: failure.at)


def forget_failures(folder: Path) -> None:
    """Remove what `leave` left, whole or in part."""
    for path in [*folder.glob(_FILES.format("*")), *folder.glob(f".{_FILES.format('*')}*")]:
        path.unlink(missing_ok=True)


def first_cause(failures: Iterable[Failure]) -> Failure | None:
    """The first failure in time that is not merely about a lost connection; None if there is no such."""
    own = [failure for failure in failures if not failure.lost]
    return min(own, key=lambda failure: failure.at, default=None)


def tell(record: Record, failure: Failure, processes: int) -> None:
    """Let the record of a run of so many processes say what failed."""
    who = f"{named(failure.rank, processes)}: " if processes > 1 and failure.cause != "refused" else ""
    record.status, record.cause = "failed", failure.cause
    record.reason, record.traceback = who + failure.reason, failure.traceback or None


def named(rank: int, processes: int) -> str:
    """What a process of a run is called."""
    return f"process {rank} of {processes}" if processes > 1 else "the process"


def describe(error: BaseException) -> str:
    """An error in one line: its kind, its words, and where in the source it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    words = " ".join(str(error).split())[:300]
    if isinstance(error, UserError):
        return words
    memory = "out of memory: " if cause_of(error) == "memory" else ""
    return f"{memory}{type(error).__name__}: {words}{where}"


def cause_of(error: BaseException) -> Cause:
    """The kind of failure that an error is. On a CPU torch has no class of its own for want of memory."""
    if isinstance(error, UserError):
        return "refused"
    allocators = ("can't allocate memory", "not enough memory", "out of memory")
    starved = isinstance(error, torch.OutOfMemoryError | MemoryError)
    told = isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in allocators)
    return "memory" if starved or told else "error"


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says no more than that another process is gone, or does not answer."""
    if cause_of(error) != "error":
        return False
    if dist.is_available() and isinstance(error, dist.DistError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(each in words for each in _LOST)


def _without_marks(error: BaseException) -> str:
    """Its traceback, without the lines that mark a part of the line above, and where packages are installed."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(shorter(line) for line in lines if not line.strip() or line.strip(" ~^"))


def last_lines(text: str, kept: int = KEPT_LINES) -> str:
    """The end of a text of many lines, and a word on how much is left out."""
    lines = text.rstrip().splitlines()
    left_out = len(lines) - kept
    return "\n".join([f"... {left_out} lines before", *lines[-kept:]] if left_out > 0 else lines)
