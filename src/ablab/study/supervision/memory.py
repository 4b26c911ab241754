"""What the kernel says about memory: who should die first when there is none left, and whether somebody has."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_COUNTER = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_MEMBERSHIP = re.compile(r"^(?:0::|\d+:(?:[\w,=]*,)?memory(?:,[\w,=]*)?:)(\S*)$", re.MULTILINE)


def oom_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Processes that were killed for want of memory so far, here and, where the kernel tells, on the whole machine.

    It only ever rises; a rise while a run was killed says why. 0 where the kernel says nothing.
    """
    files = [proc / "vmstat"]
    for group in _MEMBERSHIP.findall(_text(proc / "self" / "cgroup")):
        place = group.lstrip("/")
        files += [cgroups / place / "memory.events", cgroups / "memory" / place / "memory.oom_control"]
        files += [cgroups / "memory.events", cgroups / "memory" / "memory.oom_control"]  # as seen in a container
    return sum(int(found[1]) for path in dict.fromkeys(files) if (found := _COUNTER.search(_text(path))))


def die_first() -> None:
    """When there is no memory left, let the kernel choose this process, not the supervisor or a stranger."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def peak_memory_of(pid: int) -> int:
    """The largest resident set of a running process so far, in bytes; 0 where the system does not tell."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _text(Path(f"/proc/{pid}/status")), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
