"""How a run ended, from all that is known when its processes have: what they left, and how each of them went."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ablab.errors import printable
from ablab.results.record import Cause, Record
from ablab.results.store import LOG_FILE
from ablab.study.supervision.watchdog import StackReport, at_fault, stack_traces
from ablab.training.failures import Failure, first_cause, named, tell


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What the supervisor knows of an attempt that has ended.

    Args:
        exits: the exit status of each process; -9 is SIGKILL.
        first: those that had ended with another status than 0 before any other was told to.
        sent: the signals that the supervisor has sent since.
        why: of an end that the supervisor brought about: the cause, the reason, and where the processes stood.
        failures: what the processes have left.
        reports: of those that lived on when the first had died.
        crashed: where processes stood that crashed in native code.
        out_of_memory: whether the kernel has killed for want of memory meanwhile.
        printed: the end of what the processes printed to their log.
    """

    exits: Sequence[int | None]
    first: Sequence[int] = ()
    sent: frozenset[int] = frozenset()
    why: tuple[Cause | None, str, str | None] | None = None
    failures: Sequence[Failure] = ()
    reports: Sequence[StackReport] = field(default_factory=list)
    crashed: Mapping[int, str] = field(default_factory=dict)
    out_of_memory: bool = False
    printed: str = ""

    def tell(self, record: Record, written: bool) -> bool:
        """Let the record say how the run ended; whether it has to, since it does not say so already.

        Args:
            written: whether the first process wrote it, which is not always the one to know; else it is a blank one.
        """
        processes = len(self.exits)
        if written and record.status in ("ok", "diverged"):
            return False
        stopped = self.why is not None and (not written or record.status == "interrupted")
        if self.why is not None and (stopped or self.why[0] is not None):
            cause, record.reason, record.traceback = self.why
            record.status, record.cause = ("interrupted", None) if cause is None else ("failed", cause)
            return True
        if written and processes == 1 and (record.status == "failed" or not self.exits[0]):
            return False
        if (failure := first_cause(self.failures)) is not None:
            tell(record, failure, processes)
        elif (killed := self._killed()) is not None:
            self._tell_of_death(record, killed)
        elif (left := self._left_without_a_word()) is not None:
            self._tell_of_death(record, left)
        elif self.failures:
            self._tell_who_was_waited_for(record, self.failures[0])
        elif written and not any(self.exits):
            return False
        else:
            died = next((rank for rank, status in enumerate(self.exits) if status), 0)
            self._tell_of_death(record, self.first[0] if self.first else died)
        return True

    def _tell_of_death(self, record: Record, rank: int) -> None:
        record.status, record.cause = "failed", "memory" if self._by_kernel(rank) else "killed"
        words = last_words(self.printed) if self.exits[rank] in _CRASHES else ""
        record.reason = why(named(rank, len(self.exits)), self.exits[rank], self._by_kernel(rank), words)
        record.traceback = self.crashed.get(rank)

    def _killed(self) -> int | None:
        """The process that somebody else has killed, or that crashed in native code."""
        first = [rank for rank in self.first if (self.exits[rank] or 0) < 0]
        others = [
            rank for rank, status in enumerate(self.exits) if (status or 0) < 0 and -(status or 0) not in self.sent
        ]
        return next(iter([*first, *others]), None)

    def _left_without_a_word(self) -> int | None:
        """The first process to go, where it said nothing: the others can but say that they have lost it."""
        told = {failure.rank for failure in self.failures}
        return next((rank for rank in self.first if rank not in told), None) if self.failures else None

    def _by_kernel(self, rank: int) -> bool:
        return self.out_of_memory and self.exits[rank] == -signal.SIGKILL

    def _tell_who_was_waited_for(self, record: Record, failure: Failure) -> None:
        """All that the processes have to say is that they lost each other."""
        processes = len(self.exits)
        tell(record, failure, processes)
        accounts = {each.rank for each in self.failures}  # who has left one is known to have ended, and why
        standing = at_fault(self.reports) if self.reports else None
        if standing is not None and not standing.waits and standing.rank not in accounts:
            record.cause, record.traceback = "killed" if standing.ended else "hung", stack_traces(self.reports)
            record.reason = f"{standing.described(processes)}; {record.reason}"


_CRASHES = frozenset(-each for each in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL))
_LAST_LINES, _LAST_BYTES = 20, 8192
# How C++, glibc, LLVM and CUDA begin to say why they end the process.
_LAST_WORDS = re.compile(
    r"^(terminate called|what\(\):|libc\+\+abi|.*[Aa]ssert|.*CHECK failed|Check failed|F\d{4} |Fatal|\*\*\* |LLVM ERROR"
    r"|free\(|double free|malloc|munmap_chunk|realloc|corrupted|.*(CUDA|NCCL|cuda|nccl) ?.*[Ee]rror)"
)


def last_words(printed: str, longest: int = 200) -> str:
    """Return in one line what native code printed before it ended its process; "" where it said nothing of it."""
    lines = [line.strip() for line in printed.splitlines()[-_LAST_LINES:]]
    first = next((place for place, line in enumerate(lines) if _LAST_WORDS.match(line)), len(lines))
    said = " ".join(lines[first:]).partition("Exception raised from")[0]  # torch goes on with addresses
    words = printable(" ".join(said.split()))
    return words if len(words) <= longest else f"{words[:longest]}..."


def printed_since(log: Path, start: int) -> str:
    """Return the end of what was written to a log behind byte `start`; "" where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - _LAST_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def why(who: str, exit_status: int | None, out_of_memory: bool = False, words: str = "") -> str:
    """One line on a process that ended without writing a record.

    Args:
        words: its last ones.
    """
    if exit_status is None or exit_status == 0:
        return f"{who} ended without a record (see {LOG_FILE})"
    if exit_status > 0:
        return f"{who} ended with exit status {exit_status} (see {LOG_FILE})"
    if out_of_memory:
        return f"out of memory: {who} was killed by the kernel"
    said = f": {words}" if words else ""
    return f"{who} was killed by {signal.Signals(-exit_status).name}{said} (see {LOG_FILE})"
