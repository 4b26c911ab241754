"""What a process says of its own failure, and what it does not take for one of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ablab.errors import UserError
from ablab.results.record import Record
from ablab.training.failures import (
    KEPT_LINES,
    failure_of,
    failures_in,
    first_cause,
    forget_failures,
    is_lost_connection,
    last_lines,
    leave,
    tell,
)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (
            RuntimeError("[/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:61578: Connection reset by peer"),
            True,
        ),
        (
            RuntimeError("[/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation"),
            True,
        ),
        (dist.DistBackendError("NCCL communicator was aborted on rank 0"), True),
        (dist.DistStoreError("wait timeout after 300000ms, keys: /x"), True),
        (RuntimeError("NCCL error: unhandled cuda error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("connection reset by peer"), False),
        (torch.OutOfMemoryError("CUDA out of memory, in NCCL"), False),
        (UserError("timed out waiting for you"), False),
    ],
)
def test_what_is_merely_a_lost_connection(error: Exception, lost: bool) -> None:
    assert is_lost_connection(error) is lost


def test_what_processes_leave_is_found_and_told(tmp_path: Path) -> None:
    lost = failure_of(raised(RuntimeError("Connection closed by peer")), 0)
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
