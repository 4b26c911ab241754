"""`runs_per_device=auto` from the driver's words to the number of runs, on GPUs of our own making."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fake_gpu import FakeGpu

from ablab.config import Node, RunConfig
from ablab.config.schema import ExecutionConfig
from ablab.errors import UserError
from ablab.study.events import RunOutline
from ablab.study.plan_file import PlannedRun
from ablab.study.supervision.packing import measure, mps, sharing
from ablab.study.supervision.packing.measure import steps_per_second
from ablab.study.supervision.packing.sharing import Sharing
from ablab.study.supervision.resources import DevicePool, side_by_side, threads_for

AUTO = ExecutionConfig(runs_per_device="auto")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sharing, "_KNOWN", {})
    monkeypatch.setattr(sharing, "cores", lambda: 64)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "nobody"))
    monkeypatch.setattr(mps, "CONTROL", "nvidia-cuda-mps-control-of-nobody")


def config(d_model: int = 500) -> RunConfig:
    counts = ("max_steps", "val_check_interval", "log_every_n_steps", "accumulate_grad_batches")
    trainer = dict.fromkeys(counts, 1) | {"gradient_clip_val": None, "accelerator": "auto"}
    options: dict[str, Node] = {
        "strategy": {"processes": 1},
        "trainer": trainer,
        "model": {"d_model": d_model},
        "logger": {"csv": {}},
    }
    return RunConfig(options=options, axes={})


def runs(count: int, *sizes: int) -> list[PlannedRun]:
    """So many, of models that take so many MiB in turn."""
    sizes = sizes or (500,)
    return [
        PlannedRun(
            info=RunOutline(index=index, variant="", task="", seed=index, steps=1),
            config=config(sizes[index % len(sizes)]),
            folder=Path("/nowhere"),
        )
        for index in range(count)
    ]


def found(gpu: FakeGpu, planned: Sequence[PlannedRun], settings: ExecutionConfig = AUTO, needs: int = 1) -> Sharing:
    wanted = {run.info.index: needs for run in planned}
    with sharing.sharing(planned, wanted, gpu.names, settings, gpu.tools) as shared:
        assert not gpu.running
        return shared


def test_as_many_as_fit_in_time() -> None:
    gpu = FakeGpu(busy=0.25)
    shared = found(gpu, runs(40))
    assert (shared.runs_per_device, shared.measured, list(shared.names)) == (4, True, ["0"])
    [line] = gpu.said
    assert line.startswith("runs_per_device=auto: 4 runs share a device (8 get no more done; steps a second by runs ")
    assert "1: 40, 2: 80, 4: 160, 8: 160; 2.1 of 7.8 GiB)" in line
    assert line.endswith("; without MPS, since there is no nvidia-cuda-mps-control-of-nobody on the PATH")
    assert {place.threads for beside, place in gpu.started[:1]} == {None}
    assert {place.threads for beside, place in gpu.started[-8:]} == {threads_for(1, 8)}
    assert not any(folder.exists() or folder.parent.exists() for folder in gpu.folders)


def test_as_many_as_fit_in_memory_as_the_hungriest_kind_needs_it() -> None:
    gpu = FakeGpu(busy=0.01)
    assert found(gpu, runs(40, 200, 1500, 300)).runs_per_device == 4  # (0.9 * 8000 - 100) / 1500
    assert len(gpu.started) == 3 + 2 + 4  # each kind alone, then copies of one
    assert "there is no memory for more" in gpu.said[0]


def test_without_a_driver_that_tells_memory_running_out_of_it_ends_the_trials() -> None:
    gpu = FakeGpu(busy=0.01, tells=False)
    assert found(gpu, runs(40, 1500)).runs_per_device == 4
    assert "8 side by side failed: out of memory: OutOfMemoryError" in gpu.said[0]


def test_runs_that_are_over_at_once_are_timed_from_their_beginning() -> None:
    gpu = FakeGpu(busy=0.5, longest=3, begins_after=0.0)
    assert found(gpu, runs(8)).runs_per_device >= 1
    assert "steps a second" in gpu.said[0]


@pytest.mark.parametrize(
    ("gpu", "count", "settings", "needs", "number", "words"),
    [
        (FakeGpu(("0", "1")), 2, AUTO, 1, 1, "there are no more runs than devices"),
        (FakeGpu(), 9, ExecutionConfig(runs_per_device="auto", jobs=1), 1, 1, "there are no more runs than devices"),
        (FakeGpu(("0", "1")), 9, AUTO, 2, 1, "some runs take several devices"),
        (FakeGpu(), 9, ExecutionConfig(runs_per_device=5), 1, 5, None),
        (FakeGpu(), 9, ExecutionConfig(), 1, 1, None),
        (FakeGpu(()), 9, AUTO, 0, 1, None),
    ],
)
def test_where_there_is_nothing_to_measure_nothing_is_tried(
    gpu: FakeGpu, count: int, settings: ExecutionConfig, needs: int, number: int, words: str | None
) -> None:
    shared = found(gpu, runs(count), settings, needs)
    assert (shared.runs_per_device, list(shared.names), shared.environment) == (number, list(gpu.names), {})
    assert not gpu.started
    assert [str(words) in line for line in gpu.said] == [True] * (words is not None)


def test_several_devices_share_out_the_runs() -> None:
    gpu = FakeGpu(("0", "1", "2", "3"), busy=0.01)
    assert found(gpu, runs(14)).runs_per_device == 4  # 3.5 of them for each device
    assert side_by_side([config()], AUTO, devices=4, sharing=4) == 16


def test_what_one_block_found_the_next_one_knows() -> None:
    gpu = FakeGpu(busy=0.25)
    found(gpu, runs(40, 500, 600))
    tried = len(gpu.started)
    assert found(gpu, runs(40, 500)).runs_per_device == 4
    assert found(gpu, runs(2, 600)).runs_per_device == 2
    assert len(gpu.started) == tried
    found(gpu, runs(40, 700))
    assert len(gpu.started) > tried


def test_a_stop_ends_the_trials_and_says_nothing() -> None:
    gpu = FakeGpu()
    tools = replace(gpu.tools, stopped=lambda: gpu.now > 3.0)
    with sharing.sharing(runs(9), dict.fromkeys(range(9), 1), gpu.names, AUTO, tools) as shared:
        assert shared.runs_per_device == 1
    assert not gpu.said
    assert not gpu.running
    assert gpu.now < 4.0


def test_trials_that_never_begin_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PATIENCE_S", 20.0)
    gpu = FakeGpu(begins_after=1e9)
    assert found(gpu, runs(9)).runs_per_device == 1
    assert "a trial failed: they did not all begin to train in 20 s" in gpu.said[0]
    monkeypatch.setattr(FakeGpu, "start", lambda self, run, placement: (_ for _ in ()).throw(UserError("no room")))
    assert found(gpu, runs(9)).runs_per_device == 1
    assert "a trial failed: no room" in gpu.said[1]


CONTROL = """#!/bin/sh
echo "$@ $(cat) $CUDA_VISIBLE_DEVICES" >> {log}
{code}
"""


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts an MPS on the PATH, and returns the file with what it is told."""

    def put(code: str = "") -> Path:
        log, program = tmp_path / "told", tmp_path / "bin" / "mps-control"
        program.parent.mkdir()
        program.write_text(CONTROL.format(log=log, code=code))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.setattr(mps, "CONTROL", "mps-control")
        return log

    return put


def test_mps_is_begun_for_these_devices_and_ended(control: Callable[..., Path]) -> None:
    log, gpu = control(), FakeGpu(("0", "1"), busy=0.25)
    shared = found(gpu, runs(40))
    assert list(shared.names) == ["GPU-0", "GPU-1"]
    assert gpu.said[0].endswith("; by MPS")
    assert log.read_text().split("\n") == ["-d  GPU-0,GPU-1", " quit GPU-0,GPU-1", ""]
    [pipes] = {dict(place.environment)["CUDA_MPS_PIPE_DIRECTORY"] for _, place in gpu.started}
    assert not Path(pipes).exists()
    assert dict(shared.place(("GPU-0",), 1).environment) == dict(shared.environment)
    assert {place.devices for _, place in gpu.started} == {("GPU-0",)}


def test_mps_that_does_not_serve_is_left_out_and_that_is_said(control: Callable[..., Path]) -> None:
    control()
    gpu = FakeGpu(busy=0.25, refuses="CUDA_MPS_PIPE_DIRECTORY")
    shared = found(gpu, runs(40))
    assert (shared.runs_per_device, list(shared.names), shared.environment) == (4, ["0"], {})
    assert gpu.said[0].endswith("; without MPS, since with it a trial failed: CUDA error: MPS is broken")


@pytest.mark.parametrize(
    ("tells", "code", "words"),
    [
        (True, "echo no permission >&2; exit 3", "mps-control did not start: no permission"),
        (True, "exit 3", "mps-control did not start: status 3"),
        (False, "", "nvidia-smi does not tell the devices apart"),
    ],
)
def test_mps_that_cannot_be_begun_is_said(control: Callable[..., Path], tells: bool, code: str, words: str) -> None:
    control(code)
    gpu = FakeGpu(busy=0.25, tells=tells)
    assert found(gpu, runs(40)).runs_per_device == 4
    assert gpu.said[0].endswith(f"; without MPS, since {words}")


def test_mps_that_runs_already_is_used_and_left_alone(
    control: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = control()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    (tmp_path / "mps-control.pid").write_text(f"{os.getpid()}\n")
    gpu = FakeGpu(busy=0.25)
    assert dict(found(gpu, runs(40)).environment) == {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    assert gpu.said[0].endswith("; by MPS")
    assert not log.exists()


def test_rates_are_between_the_first_report_and_the_last() -> None:
    assert steps_per_second([(10.0, 100), (11.0, 130), (12.0, 180)], began=0.0) == 40.0
    assert steps_per_second([(10.0, 100)], began=5.0) == 20.0
    assert steps_per_second([], began=5.0) == 0.0


def test_a_pool_that_is_lowered_never_goes_below_one() -> None:
    pool = DevicePool(["0", "1"], 3)
    taken = [pool.take(1) for _ in range(6)]
    assert pool.take(1) is None
    assert pool.lower()
    assert pool.take(1) is None
    for each in taken[:4]:
        assert each is not None
        pool.give_back(each)
    assert [pool.take(1) for _ in range(3)] == [("0",), ("1",), None]
    assert pool.lower()
    assert not pool.lower()
