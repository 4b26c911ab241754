"""Two processes that talk to each other in known ways, and what `Traffic` counts of it. `main` is a process's own."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.distributed._functional_collectives import all_reduce
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from ablab.training.traffic.counter import Traffic
from ablab.training.traffic.intervals import thread_clock

STEPS = 4
WIDTH = 16
LARGE = 1_000_000  # numbers; large enough that what TCP adds is little


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))


def steps_of(model: nn.Module) -> Callable[[], None]:
    def run() -> None:
        for _ in range(STEPS):
            model(torch.ones(2, WIDTH)).sum().backward()

    return run


def data_parallel() -> Callable[[], None]:
    return steps_of(DistributedDataParallel(two_layers(), static_graph=True, gradient_as_bucket_view=True))


def low_rank() -> Callable[[], None]:
    """PowerSGD of rank 1 from the second step on: its collectives are called in callbacks, by other threads."""
    model = DistributedDataParallel(two_layers())
    state = powerSGD_hook.PowerSGDState(None, 1, start_powerSGD_iter=2, min_compression_rate=1)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    steps_of(model)()  # three pass until its buckets are in order
    return steps_of(model)


def tensor_parallel() -> Callable[[], None]:
    mesh = init_device_mesh("cpu", (2,))
    model = parallelize_module(two_layers(), mesh, {"0": ColwiseParallel(), "1": RowwiseParallel()})

    def run() -> None:
        for _ in range(STEPS):
            model(torch.ones(2, WIDTH, requires_grad=True)).sum().backward()

    return run


def sharded() -> Callable[[], None]:
    mesh = init_device_mesh("cpu", (2,))
    model = two_layers()
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)  # in place
    return steps_of(model)


def single_calls() -> Callable[[], None]:
    """One call of every kind, each of a size of its own."""
    rank = dist.get_rank()
    alone = dist.new_group([0]), dist.new_group([1])

    def run() -> None:
        with torch.inference_mode():
            dist.all_reduce(torch.ones(10))
        assert dist.group.WORLD is not None
        all_reduce(torch.ones(20, dtype=torch.float64), "sum", dist.group.WORLD).sum()
        dist.all_reduce(torch.ones(30), group=alone[rank])
        dist.broadcast(torch.ones(40), 0)
        dist.reduce(torch.ones(50), 0)
        dist.all_gather([torch.empty(60) for _ in range(2)], torch.ones(60))
        dist.reduce_scatter_tensor(torch.empty(70), torch.ones(140))
        dist.all_to_all_single(torch.empty(80), torch.ones(80))
        dist.gather(torch.ones(90), [torch.empty(90) for _ in range(2)] if rank == 0 else None)
        dist.scatter(torch.empty(100), [torch.ones(100) for _ in range(2)] if rank == 0 else None)
        dist.broadcast(torch.ones(110, dtype=torch.int32), 0)  # bookkeeping
        dist.barrier()
        if rank == 0:
            dist.send(torch.ones(120), 1)
            dist.recv(torch.empty(120), 1)
        else:
            dist.recv(torch.empty(120), 0)
            dist.send(torch.ones(120), 0)

    return run


def large_all_reduce() -> Callable[[], None]:
    def run() -> None:
        for _ in range(STEPS):
            dist.all_reduce(torch.ones(LARGE))

    return run


def large_all_gather() -> Callable[[], None]:
    def run() -> None:
        for _ in range(STEPS):
            dist.all_gather_into_tensor(torch.empty(2 * LARGE), torch.ones(LARGE))

    return run


def quiet() -> Callable[[], None]:
    """Nothing at all, of which nothing is counted."""
    return lambda: None


MAKERS = (
    *(data_parallel, low_rank, tensor_parallel, sharded, single_calls),
    *(large_all_reduce, large_all_gather, quiet),
)


def on_the_wire() -> int:
    """Bytes that the loopback interface of this network namespace has carried."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


def process(rank: int, port: int, path: str, alone: bool) -> None:
    warnings.simplefilter("ignore")  # torch's, on names that it has given to functions since
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for make in MAKERS:
        run = make()
        traffic = Traffic(thread_clock())
        traffic.install()
        dist.all_reduce(torch.ones(7))  # neither before nor after
        dist.barrier()
        before = on_the_wire()
        traffic.start()
        run()
        traffic.stop()
        dist.barrier()
        wire = on_the_wire() - before
        traffic.remove()
        dist.all_reduce(torch.ones(7))
        found[make.__name__] = {
            "counts": [[*kind, *values] for kind, values in sorted(traffic.counts.items())],
            "timed": traffic.timed,
            "seconds": traffic.under_way.seconds,
            "computed": traffic.under_way.computed,
            "wire": wire,
        }
    if rank == 0:
        Path(path).write_text(json.dumps({"by_name": found, "alone": alone}), encoding="utf-8")
    dist.destroy_process_group()


def cut_off() -> bool:
    """Give this process a loopback interface of its own; whether that can be done here."""
    if sys.platform != "linux" or ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NETWORK):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        fcntl.ioctl(asked, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))
    return True


_NEW_USER, _NEW_NETWORK, _SET_FLAGS, _UP = 0x10000000, 0x40000000, 0x8914, 0x1  # linux/sched.h, sockios.h, if.h


def main(path: str) -> None:
    """Write to a file, as JSON: name -> what `Traffic` and the network counted; and whether nobody else used it."""
    alone = cut_off()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    torch.multiprocessing.start_processes(process, (free, path, alone), nprocs=2, start_method="fork")
