"""What a process says of its own failure, and what it does not take for one of its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._functional_collectives import all_reduce

from ablab.errors import UserError
from ablab.results.record import Record
from ablab.training.failures import (
    KEPT_LINES,
    cause_of,
    failure_of,
    failures_in,
    first_cause,
    forget_failures,
    is_lost_connection,
    last_lines,
    leave,
    tell,
)
from ablab.training.strategies.replicas import FlatMean
from ablab.training.traffic.counter import Traffic


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (dist.DistBackendError("NCCL communicator was aborted on rank 0"), True),
        (dist.DistStoreError("wait timeout after 300000ms, keys: /x"), True),
        (RuntimeError("Connection closed by peer"), False),  # raised here, where nobody waits
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ConnectionResetError("connection reset by peer"), False),
        (torch.OutOfMemoryError("CUDA out of memory, in NCCL"), False),
        (UserError("timed out waiting for you"), False),
    ],
)
def test_what_is_merely_a_lost_connection(error: Exception, lost: bool) -> None:
    assert is_lost_connection(raised(error)) is lost


def join(meeting: Path, rank: int) -> nn.Module:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    return nn.parallel.DistributedDataParallel(nn.Linear(2, 2))


def lost_by(wait: Callable[[], object]) -> bool:
    with pytest.raises(RuntimeError) as caught:
        wait()
    return is_lost_connection(caught.value)


def test_a_process_that_is_gone_is_told_from_an_error_of_ones_own_wherever_it_is_missed(tmp_path: Path) -> None:
    other = os.fork()
    if not other:
        join(tmp_path / "meeting", 1)
        os._exit(0)
    try:
        replica, x = join(tmp_path / "meeting", 0), torch.ones(2)
        os.waitpid(other, 0)
        assert lost_by(lambda: replica(x[None]).sum().backward())
        assert lost_by(lambda: dist.all_reduce(x))
        assert lost_by(lambda: dist.recv(x, 1))
        assert lost_by(dist.barrier)
        world = dist.group.WORLD
        assert world is not None
        assert lost_by(lambda: all_reduce(x, "sum", world) + 1)
        assert lost_by(lambda: FlatMean([x]).wait())
        traffic = Traffic(None)
        assert traffic.install()
        traffic.start()
        assert lost_by(lambda: dist.all_reduce(x))
        traffic.remove()
        assert not lost_by(lambda: x @ torch.ones(3))
    finally:
        dist.destroy_process_group()


def test_want_of_memory_is_known_whatever_tells_of_it() -> None:
    with pytest.raises(RuntimeError) as caught:  # the words of torch's allocator: it has no class for this
        torch.empty(10**15)
    assert cause_of(caught.value) == "memory"
    assert cause_of(OSError(errno.ENOMEM, "Cannot allocate memory")) == "memory"
    assert cause_of(MemoryError()) == cause_of(torch.OutOfMemoryError("CUDA")) == "memory"
    assert cause_of(OSError(errno.EIO, "not enough memory")) == "error"
    assert cause_of(ValueError("out of memory")) == "error"


def test_what_processes_leave_is_found_and_told(tmp_path: Path) -> None:
    lost = failure_of(raised(dist.DistNetworkError("Connection closed by peer")), 0)
    own = failure_of(raised(ValueError("no such thing")), 1)
    later = failure_of(raised(KeyError("x")), 2)
    for failure in (later, lost, own):
        leave(tmp_path, failure)
    (tmp_path / ".failure-3.json").write_text("{")  # the disk was full
    assert failures_in(tmp_path) == [lost, own, later]
    assert first_cause(failures_in(tmp_path)) == own
    assert first_cause([lost]) is None
    record = Record(status="ok", fingerprint="", study="", variant="", seed=0, axes={}, config={})
    tell(record, own, 3)
    assert (record.status, record.cause) == ("failed", "error")
    assert str(record.reason).startswith("process 1 of 3: ValueError: no such thing (test_failures.py:")
    assert str(record.traceback).splitlines()[-1] == "ValueError: no such thing"
    assert "^" not in str(record.traceback)
    forget_failures(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").touch()
    leave(tmp_path / "full", own)  # where it cannot, that is not what the run failed of


def test_a_mistake_of_the_users_has_no_traceback_and_is_of_no_process_alone() -> None:
    record = Record(status="ok", fingerprint="", study="", variant="", seed=0, axes={}, config={})
    tell(record, failure_of(raised(UserError("mend it")), 1), 2)
    assert (record.reason, record.traceback, record.cause) == ("mend it", None, "refused")


def test_the_last_lines() -> None:
    assert last_lines("a\nb\n") == "a\nb"
    many = [str(number) for number in range(KEPT_LINES + 3)]
    assert last_lines("\n".join(many)).splitlines() == ["... 3 lines before", *many[3:]]
