"""Counts the collectives of this process at PyTorch's dispatcher, where all of them pass, and the bytes in them.

Every collective is an operator of the library `c10d`, whoever calls it: `torch.distributed` from Python, the reducer of
DistributedDataParallel in C++, a communication hook in another thread, and the functional collectives of DTensor and
FSDP, which call the same operators beneath. `ablab.training.dispatcher` has the place that every call passes.

What is sent is what the bandwidth-optimal algorithm sends, a ring: no algorithm sends less, and NCCL uses it for large
tensors. How a backend does it may differ (gloo, for one, makes a reduce-scatter of an all-reduce), so that the figure
is a property of the strategy and not of the library under it.

With n processes and S bytes:

* all-reduce: 2 (n - 1)/n S (Patarasuk and Yuan 2009, section 3: a reduce-scatter and an all-gather);
* all-gather of a shard of s bytes: (n - 1) s; reduce-scatter of S: (n - 1)/n S (Thakur, Rabenseifner and Gropp 2005,
  sections 4.1 and 4.2);
* all-to-all of S: (n - 1)/n S, since the n-th part stays; sending S to one process: S;
* broadcast and reduce of S, gather and scatter of a share of S: (n - 1) S over all processes together, whichever of
  them is the root, so that each is given the mean, (n - 1)/n S.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ablab.training.dispatcher import Collectives, dense_parts, place_of
from ablab.training.traffic.intervals import Intervals
from ablab.training.traffic.totals import Counts


@dataclass(frozen=True)
class Kind:
    """A kind of collective, whichever of torch's operators it is called by."""

    name: str
    sent: Callable[[int, int], float]  # bytes sent, of the number of processes and the bytes handed in


ALL_REDUCE = Kind("all-reduce", lambda n, payload: 2 * (n - 1) * payload / n)
ALL_GATHER = Kind("all-gather", lambda n, payload: (n - 1) * payload)
REDUCE_SCATTER = Kind("reduce-scatter", lambda n, payload: (n - 1) * payload / n)
ALL_TO_ALL = Kind("all-to-all", lambda n, payload: (n - 1) * payload / n)
BROADCAST = Kind("broadcast", lambda n, payload: (n - 1) * payload / n)
REDUCE = Kind("reduce", lambda n, payload: (n - 1) * payload / n)
GATHER = Kind("gather", lambda n, payload: (n - 1) * payload / n)
SCATTER = Kind("scatter", lambda n, payload: (n - 1) * payload / n)
SEND = Kind("send", lambda n, payload: payload)

# torch's operator (`c10d::...`) -> its kind, and which of its arguments is what the process hands in. Of a scatter
# only the root hands something in, so that the share that comes out is taken. What is received was counted by the
# process that sent it, and a barrier carries nothing.
OPERATORS: dict[str, tuple[Kind, int]] = {
    "allreduce_": (ALL_REDUCE, 0),
    "allreduce_coalesced_": (ALL_REDUCE, 0),
    "allgather_": (ALL_GATHER, 1),
    "allgather_coalesced_": (ALL_GATHER, 1),
    "_allgather_base_": (ALL_GATHER, 1),
    "allgather_into_tensor_coalesced_": (ALL_GATHER, 1),
    "reduce_scatter_": (REDUCE_SCATTER, 1),
    "_reduce_scatter_base_": (REDUCE_SCATTER, 1),
    "reduce_scatter_tensor_coalesced_": (REDUCE_SCATTER, 1),
    "alltoall_": (ALL_TO_ALL, 1),
    "alltoall_base_": (ALL_TO_ALL, 1),
    "broadcast_": (BROADCAST, 0),
    "reduce_": (REDUCE, 0),
    "gather_": (GATHER, 1),
    "scatter_": (SCATTER, 0),
    "send": (SEND, 0),
}


def flat(tensors: Any) -> Iterator[Tensor]:
    """The tensors in a tensor or in lists of them, however deep."""
    if isinstance(tensors, Tensor):
        yield tensors
    else:
        for each in tensors:
            yield from flat(each)


def size(tensors: Any) -> int:
    """Bytes of a tensor, or of all in a list. Of a sparse one, which has no bytes of its own, those of its parts."""
    total = 0
    for each in flat(tensors):
        for part in dense_parts(each):
            total += part.numel() * part.element_size()
    return total


class Traffic:
    """What this process has handed to collectives between `start` and `stop`, and for how long they were under way.

    Counting one takes some 20 microseconds. Watching for its end takes as much again, and more where the thread that
    tells of it has to wait for a core.

    What DistributedDataParallel does once after each start, in the first two passes, is left out: its processes agree
    on which parameters take part (an all-reduce) and on the order of its buckets (broadcasts). Alone among what is
    sent these are of type int32. A run that goes on from a checkpoint does it again, and must count as if it had not.

    Args:
        computing: the clock of the thread that trains, see `intervals.thread_clock`.
    """

    def __init__(self, computing: Callable[[], float] | None) -> None:
        self.counts: Counts = {}
        self.under_way = Intervals(computing)
        self.timed = True  # False: the end of some collective is not known, and so neither are the intervals
        self._counting = self._watching = False
        self._lock = threading.Lock()
        self._collectives = Collectives()

    def install(self) -> bool:
        """Stand between callers and collectives from now on. Once per process at a time.

        Returns:
            False where this version of torch has no such place to stand; nothing is then counted, ever.
        """
        return self._collectives.install(
            {
                name: functools.partial(self._called, kind, handed_in, place_of(name, "async_op"))
                for name, (kind, handed_in) in OPERATORS.items()
            }
        )

    def remove(self) -> None:
        """Leave the collectives as they were."""
        self.stop()
        self._collectives.remove()

    def go_on(self, counts: Counts, seconds: float | None, computed: float | None) -> None:
        """From what had been counted and measured before."""
        self.counts, self.timed = dict(counts), seconds is not None
        self.under_way.seconds, self.under_way.computed = seconds or 0.0, computed or 0.0

    def start(self, *, watch: bool = True, time: bool = True) -> None:
        """Count from now on.

        Args:
            watch: whether to see when collectives that are called from now on end.
            time: whether to add up the time in which any that are watched are under way.
        """
        self._counting, self._watching = True, watch
        if time:
            self.under_way.open()

    def stop(self) -> None:
        self._counting = self._watching = False
        self.under_way.close()

    def _called(
        self,
        kind: Kind,
        handed_in: int,
        async_at: int | None,
        send: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if not self._counting or _is_bookkeeping(kind, args[handed_in]):
            return send(*args, **kwargs)
        self._count(kind, args, handed_in)
        if not self._watching:
            return send(*args, **kwargs)
        self.under_way.begin()
        try:
            out = send(*args, **kwargs)
        except BaseException:
            self.under_way.end()
            raise
        self._await(out, _is_async(async_at, args, kwargs), {each.device.type for each in flat(args[handed_in])})
        return out

    def _count(self, kind: Kind, args: tuple[Any, ...], handed_in: int) -> None:
        group = next(each for each in args if isinstance(each, torch.ScriptObject))
        processes, payload = dist.ProcessGroup.unbox(group).size(), size(args[handed_in])
        with self._lock:
            calls, bytes_in, bytes_sent = self.counts.get((kind.name, processes), (0, 0, 0.0))
            self.counts[kind.name, processes] = (
                calls + 1,
                bytes_in + payload,
                bytes_sent + kind.sent(processes, payload),
            )

    def _await(self, out: Any, asynchronous: bool, devices: set[str]) -> None:
        """Have the end of a collective noticed."""
        if devices == {"cpu"}:  # what a future of NCCL's tells is that the work has been queued
            work = dist.Work.unbox(out[-1] if isinstance(out, tuple | list) else out)
            if not asynchronous:
                try:
                    work.wait()  # as the caller is going to, at once
                finally:
                    self.under_way.end()
                return
            with contextlib.suppress(RuntimeError):  # not all of gloo's have a future
                work.get_future().add_done_callback(lambda _: self.under_way.end())
                return
        self.under_way.end()
        self.timed = False


def _is_bookkeeping(kind: Kind, tensors: Any) -> bool:
    return kind in (ALL_REDUCE, BROADCAST) and all(each.dtype == torch.int32 for each in flat(tensors))


def _is_async(place: int | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the caller goes on before the collective has ended. Arguments that are the default are not passed."""
    if place is None:
        return True
    return bool(args[place] if place < len(args) else kwargs.get("async_op", True))
