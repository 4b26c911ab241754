"""The dashboard as a process of its own, asked over the loopback interface."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ablab.errors import UserError
from ablab.report.dashboard import serve
from ablab.results.store import RECORD_FILE


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for name in ("attention=full/seed=0", "attention=lsh/seed=0"):
        writer = EventFileWriter(str(tmp_path / name))
        writer.add_event(Event(step=3, summary=Summary(value=[Summary.Value(tag="val_loss", simple_value=2.5)])))
        writer.close()
    return tmp_path


@pytest.fixture
def dashboard(study: Path) -> Iterator[subprocess.Popen[str]]:
    code = f"from pathlib import Path; from ablab.report.dashboard import serve; serve(Path({str(study)!r}), 0)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_it_serves_the_runs_on_loopback_and_ends_with_ctrl_c(dashboard: subprocess.Popen[str]) -> None:
    assert dashboard.stderr is not None
    address = None
    for line in dashboard.stderr:  # ends with the process, so a failed start fails here
        if found := re.search(r"at (http://\S+)", line):
            address = found.group(1)
            break
    assert address is not None
    assert address.startswith("http://127.0.0.1:")

    runs: list[str] = []
    while sorted(runs) != ["attention=full/seed=0", "attention=lsh/seed=0"]:  # read in the background at first
        with urllib.request.urlopen(f"{address}data/runs", timeout=60) as answer:
            runs = json.load(answer)

    dashboard.send_signal(signal.SIGINT)
    _, rest = dashboard.communicate(timeout=60)
    assert dashboard.returncode == 0
    assert "Traceback" not in rest


def test_a_port_in_use(study: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used .*: choose another"):
            serve(study, port)


def test_a_port_that_does_not_exist(study: Path) -> None:
    with pytest.raises(UserError, match="port 70000 does not exist"):
        serve(study, 70000)


def test_folders_without_anything_to_show(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        serve(tmp_path / "gone")
    with pytest.raises(UserError, match="no runs here or below"):
        serve(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RECORD_FILE).write_text("{}")
    with pytest.raises(UserError, match="no TensorBoard files: train with logger=tensorboard"):
        serve(tmp_path)
