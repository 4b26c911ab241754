"""How many bytes a process hands to a collective, and how many it sends to other processes.

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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor


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
        for part in (each._indices(), each._values()) if each.is_sparse else (each,):
            total += part.numel() * part.element_size()
    return total
