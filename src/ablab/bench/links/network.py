"""Two network namespaces joined by a pair of virtual Ethernet devices whose rate and delay can be set.

By iproute2's `ip` and `tc`, on Linux, as root. Rates are set by a token bucket filter (tbf, and netem's own where there
is a delay), at both ends: each direction has the whole of the rate, as a cable has.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from ablab.errors import UserError
from ablab.results.step_time import Link

DEVICE = "ablab0"  # in each namespace
_NETWORK = "10.213.77"  # seen in the namespaces alone
_MTU = 1500  # bytes of an IP packet
_HEADERS = 20 + 32  # of IPv4 and of TCP with time stamps, in it
_FRAME = 14  # Ethernet's, which the kernel counts too
_ACKNOWLEDGED = 2  # full segments for each acknowledgement, which takes the way of what is sent in return
BUCKET_BYTES = 32_768  # what may pass at once after a rest: a timer that is late by less loses nothing of the rate
_QUIET_S, _QUIET_PACKETS, _LONGEST_S = 0.02, 4, 30.0  # without a packet after which none is awaited; at most
_QUEUE_BYTES = 50_000_000  # nothing is dropped: TCP is not to measure the link anew at every step


def address(place: int) -> str:
    """The address of the process in that namespace."""
    return f"{_NETWORK}.{place + 1}"


def payload_link(bits_per_s: float, delay_s: float = 0.0) -> Link:
    """The link that a throttle to so many bits a second leaves for payload.

    A full segment carries 1448 bytes and counts as 1514; for two of them a process sends an acknowledgement of 66
    bytes, in the direction in which it sends its own: 0.937 of the rate.
    """
    segment = _MTU - _HEADERS
    counted = _MTU + _FRAME + (_HEADERS + _FRAME) / _ACKNOWLEDGED
    return Link(bits_per_s / 8 * segment / counted, delay_s)


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """The names of two joined namespaces, which are removed at the end, however it comes.

    Raises:
        UserError: this system or this user cannot make them.
    """
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise UserError(f"ablab bench links needs the command {tool} (package iproute2, on Linux)")
    names = (f"ablab-{os.getpid()}-0", f"ablab-{os.getpid()}-1")
    before = signal.signal(signal.SIGTERM, _end)
    try:
        for name in names:
            _run("ip", "netns", "add", name)
        _run("ip", "link", "add", DEVICE, "netns", names[0], "type", "veth", "peer", "name", DEVICE, "netns", names[1])
        for place, name in enumerate(names):
            _run("ip", "-n", name, "addr", "add", f"{address(place)}/24", "dev", DEVICE)
            for device in ("lo", DEVICE):
                _run("ip", "-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        signal.signal(signal.SIGTERM, before)


def throttle(bits_per_s: float | None, delay_s: float = 0.0) -> None:
    """Set what leaves the namespace that this process is in; None: not throttled.

    Raises:
        UserError: the kernel lacks what it takes.
    """
    if bits_per_s is None:
        subprocess.run(["tc", "qdisc", "del", "dev", DEVICE, "root"], capture_output=True, check=False)
    else:
        _run("tc", *queue(bits_per_s, delay_s))


def bytes_left() -> int:
    """Bytes that have left the namespace that this process is in, with all headers, as its device counts them."""
    return int(Path(f"/sys/class/net/{DEVICE}/statistics/tx_bytes").read_text(encoding="ascii"))


def bytes_left_in_the_end(bits_per_s: float | None, delay_s: float = 0.0) -> int:
    """The same once nothing waits to leave: a process that has received all may still have something to send.

    Args:
        bits_per_s, delay_s: as the link is throttled.
    """
    quiet = max(_QUIET_S, delay_s + _QUIET_PACKETS * (_MTU + _FRAME) * 8 / (bits_per_s or math.inf))
    before, now = -1, bytes_left()
    deadline = time.monotonic() + _LONGEST_S
    while now != before and time.monotonic() < deadline:
        time.sleep(quiet)
        before, now = now, bytes_left()
    return now


def queue(bits_per_s: float, delay_s: float = 0.0) -> list[str]:
    """tc's words for a rate and a delay."""
    rate = f"{round(bits_per_s)}bit"
    if delay_s:
        what = ["netem", "delay", f"{round(delay_s * 1e6)}us", "rate", rate, "limit", str(_QUEUE_BYTES // _MTU)]
    else:
        what = ["tbf", "rate", rate, "burst", str(BUCKET_BYTES), "limit", str(_QUEUE_BYTES)]
    return ["qdisc", "replace", "dev", DEVICE, "root", *what]


def check_throttle(name: str, bits_per_s: float, delay_s: float) -> None:
    """Whether this kernel can throttle so, tried in a namespace.

    Raises:
        UserError: it cannot.
    """
    _run("ip", "netns", "exec", name, "tc", *queue(bits_per_s, delay_s))
    subprocess.run(
        ["ip", "netns", "exec", name, "tc", "qdisc", "del", "dev", DEVICE, "root"], capture_output=True, check=False
    )


def _run(*words: str) -> None:
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode:
        why = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[:1] or [f"status {ended.returncode}"]
        need = "the kernel needs sch_netem" if "netem" in words and "kind" in why[0] else "it needs root on Linux"
        raise UserError(f"ablab bench links: {need}: `{' '.join(words)}` says: {why[0]}")


def _end(*_: int | FrameType | None) -> None:
    sys.exit(143)
