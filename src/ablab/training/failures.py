"""What a process of a run leaves behind when it fails, and which of several failures was the first cause.

When one process of a run fails, the others fail, too: they lose their connection to it. So each leaves what it knows in
a small file in the run's folder, and whoever writes the record chooses among them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed.checkpoint import CheckpointException

from ablab.config.redact import redact_text
from ablab.errors import UserError
from ablab.results.record import Cause, Record
from ablab.results.store import parse_json, write_atomically
from ablab.training.stacks import shorter, waits

KEPT_LINES = 40  # of a traceback, the last ones
NO_SPACE = "no space left on device"
_FULL = (NO_SPACE, "disk quota exceeded", "unexpected pos ")
_FILES = ".failure-{}.json"

# Torch's allocators for the processor and for MPS raise plain RuntimeErrors: these words are all that tells them from
# others. A test asks torch for them.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


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
            found.append(Failure(**parse_json(path.read_bytes())))
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
    if _is_of_full_disk(error):
        return f"{NO_SPACE}{where}"
    memory = "out of memory: " if cause_of(error) == "memory" else ""
    return f"{memory}{type(error).__name__}: {words}{where}"


def cause_of(error: BaseException) -> Cause:
    """The kind of failure that an error is."""
    if isinstance(error, UserError):
        return "refused"
    if _is_of_full_disk(error):
        return "disk"
    starved = isinstance(error, torch.OutOfMemoryError | MemoryError)
    full = isinstance(error, OSError) and error.errno == errno.ENOMEM
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    return "memory" if starved or full or told else "error"


def _is_of_full_disk(error: BaseException) -> bool:
    """Whether a disk is full, or its owner's share of it, in whatever words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    words = str(error).lower()  # of torch's writers, of files and of shards
    return isinstance(error, RuntimeError | OSError | CheckpointException) and any(each in words for each in _FULL)


@contextlib.contextmanager
def noted(what: str, notes: list[str], secrets: frozenset[str] = frozenset()) -> Iterator[None]:
    """Within it, what fails is noted, and told in the log; a run whose metrics are there does not fail for it.

    Neither has `secrets` in it, or those that their names tell.
    """
    try:
        yield
    except Exception as error:  # of a component, a service or a disk
        notes.append(redact_text(f"{what} failed: {describe(error)}", secrets))
        with contextlib.suppress(OSError):
            print(redact_text("".join(traceback.format_exception(error)), secrets), end="", file=sys.stderr)


def ended_itself(error: SystemExit) -> bool:
    """Whether a component called sys.exit. Where somebody asked the run to stop, a KeyboardInterrupt came before."""
    before: BaseException | None = error
    while before is not None and not isinstance(before, KeyboardInterrupt | SIGTERMException):
        before = before.__context__
    return before is None


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says no more than that another process is gone, or does not answer.

    Gloo's are plain RuntimeErrors, and so are known by where they are raised: where a process waits for the others.
    That may be an error of this process alone, as of its backward pass, which is then the cause if nothing else is.
    """
    if cause_of(error) != "error":
        return False
    if dist.is_available() and isinstance(error, dist.DistError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return type(error) is RuntimeError and waits([(each.filename, each.lineno or 0, each.name) for each in frames])


def _without_marks(error: BaseException) -> str:
    """Its traceback, without the lines that mark a part of the line above, and where packages are installed."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(shorter(line) for line in lines if not line.strip() or line.strip(" ~^"))


def last_lines(text: str, kept: int = KEPT_LINES) -> str:
    """The end of a text of many lines, and a word on how much is left out."""
    lines = text.rstrip().splitlines()
    left_out = len(lines) - kept
    return "\n".join([f"... {left_out} lines before", *lines[-kept:]] if left_out > 0 else lines)
