"""What the steps run exists and can be done, fits into eight minutes, and is skipped by name on a CPU."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import everything
from pythons import forking

from ablab.bench.attention.command import catalogue, chosen, request
from ablab.bench.attention.cost import Times
from ablab.bench.attention.results import Cell
from ablab.bench.attention.results import write as write_cells
from ablab.bench.gpu import ranks, readings, stacks, steps
from ablab.bench.gpu.command import LIMIT_S
from ablab.bench.gpu.describe import describe
from ablab.bench.gpu.results import Machine, Results, Row, StepResult, markdown
from ablab.bench.gpu.steps import all_steps
from ablab.bench.loop import compose_config
from ablab.bench.strategies import Speed
from ablab.cli.bench import bench
from ablab.config import RunConfig
from ablab.results.store import RECORD_FILE, write_record
from ablab.training.begin import new_record
from ablab.training.world import launched

CPU, GPU = Machine(reason="there is none"), Machine(device="A GPU")


def test_a_cpu_skips_all_that_needs_cuda_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = {step.name: step.missing(CPU) for step in all_steps() if step.missing(CPU)}
    assert {"tests", "attention", "compiled", "ddp", "fsdp", "tensor"} <= set(skipped)
    assert "loop" not in skipped
    assert set(skipped.values()) == {"needs CUDA: there is none"}
    monkeypatch.setattr(steps, "_tests", lambda: Path("/nowhere"))
    monkeypatch.setattr(steps, "known_settings", list)
    monkeypatch.setattr(steps, "type_at", lambda key: None)
    lacking = {step.name: step.missing(GPU) for step in all_steps() if step.missing(GPU)}
    assert lacking == {
        "tests": "the tests are not there: needs a clone of the repository",
        "stacked": "there is no setting stack",
        "compiled": "there is no setting trainer.compile",
    }


def test_no_step_takes_the_time_of_another() -> None:
    assert sum(step.limit_s for step in all_steps()) < LIMIT_S
    names = [step.name for step in all_steps()]
    assert len(set(names)) == len(names)


def test_every_command_is_one_that_there_is() -> None:
    """Their words are understood as the command line understands them, and configs can be composed."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    bench(parser)
    understood = {}
    for step in all_steps():
        if step.words[1:4] == ["-m", "ablab", "bench"] and not step.missing(GPU):
            understood[step.name] = parser.parse_args(step.words[4:])
            assert understood[step.name].json == Path(readings.RESULT_FILE)
    asked = request(understood["attention"])
    assert (asked.setting.dtype, asked.lengths) == ("bfloat16", list(steps.LENGTHS))
    found, _ = catalogue(asked.setting)
    assert len(chosen(found, asked.implementations)) == len(asked.implementations)
    compose_config(understood["loop"].overrides)
    for step in all_steps():
        if "ablab.bench.gpu.ranks" in step.words:
            assert compose_config([*step.words[4:]]).chosen("strategy") == f"strategy={step.name}"


def test_two_processes_are_told_that_they_are_two_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCCL_HOSTID", raising=False)
    told = [ranks._environment(rank, 12_345) for rank in range(2)]
    places = [launched(each) for each in told]
    assert [(place.rank, place.local_rank, place.size, place.on_node) for place in places if place] == [
        (0, 0, 2, 1),
        (1, 0, 2, 1),
    ]
    assert len({each["NCCL_HOSTID"] for each in told}) == 2  # else NCCL refuses them on one device


@pytest.mark.slow
def test_a_run_of_two_ranks_is_told_in_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Path) -> None:
    tiny = [f"task.path={corpus}", "task=text", "model=tiny", "task.seq_len=32", "task.batch_size=4"]
    tiny += ["task.eval_tokens=256", "trainer.accelerator=cpu"]
    monkeypatch.setattr(ranks, "STEPS", 2)
    monkeypatch.setattr(ranks, "HANG_S", 120)
    output = tmp_path / readings.RESULT_FILE
    with forking(everything, "all"):
        assert ranks.run(output, [*tiny, "strategy=ddp"])
    [row] = readings.ranks(tmp_path, "")
    assert (row["status"], row["backend"], row["steps"]) == ("ok", "gloo", 2)
    assert min(float(row[key] or 0) for key in ("MB a step", "val_loss")) > 0


def test_stacked_seeds_are_told_beside_those_that_are_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: Any
) -> None:
    def sweep(folder: Path, overrides: list[str]) -> int:
        seeds = next(word for word in overrides if word.startswith("seed=")).split(",")
        for place, _ in enumerate(seeds):
            record = new_record(tiny_config())
            record.status, record.cost.wall_time_s = "ok", 2.0 if "stack=seeds" in overrides else 12.0
            (folder / str(place)).mkdir(parents=True)
            write_record(folder / str(place), record)
        return 0

    monkeypatch.setattr(stacks, "_sweep", sweep)
    assert stacks.run(tmp_path / readings.RESULT_FILE, ["model=tiny"])
    together, alone = readings.any_numbers(tmp_path, "")
    assert (together["seeds"], together["ended well"], together["times as fast"]) == (16, 16, 6.0)
    assert (alone["seeds"], alone["s a seed"]) == (4, 12.0)
    monkeypatch.setattr(stacks, "_sweep", lambda folder, overrides: 1)
    assert not stacks.run(tmp_path / "none" / readings.RESULT_FILE, [])


def test_a_run_that_stood_still_says_where(tmp_path: Path, tiny_config: Any) -> None:
    config: RunConfig = tiny_config()
    record = new_record(config)
    record.status, record.cause, record.reason = "failed", "hung", "process 1 of 2: nothing went on for 15 s"
    record.traceback = "  File a.py\n    dist.all_gather(shards)\n"
    write_record(tmp_path, record)
    assert (tmp_path / RECORD_FILE).is_file()
    found = ranks._told(tmp_path, [1, -9])
    assert found["reason"] == "process 1 of 2: nothing went on for 15 s"
    assert found["stood at"] == "dist.all_gather(shards)"
    assert ranks._told(tmp_path / "none", [1, -9]) == {"status": "no record", "reason": "exit statuses: 1, -9"}


def cell(name: str, length: int, seconds: float | None, skipped: str = "") -> Cell:
    times = None if seconds is None else Times.of([seconds])
    kind: dict[str, Any] = {"implementation": name, "ours": True, "family": "full", "causal": True}
    return Cell(pass_="forward", length=length, times=times, peak_bytes=1, skipped=skipped, **kind)


def test_attention_is_told_beside_flash(tmp_path: Path) -> None:
    cells = [cell("windowed", 4096, 0.001), cell("sdpa-flash", 4096, 0.004), cell("windowed", 16_384, None, "no room")]
    write_cells(tmp_path / readings.RESULT_FILE, cells)
    assert readings.attention(tmp_path, "") == [
        {
            "implementation": "windowed",
            "pass": "forward",
            "4,096: ms": 1.0,
            "4,096: times flash": 4.0,
            "16,384: ms": "no room",
        },
        {"implementation": "sdpa-flash", "pass": "forward", "4,096: ms": 4.0, "4,096: times flash": 1.0},
    ]


def test_tables_of_the_other_steps(tmp_path: Path) -> None:
    speed = Speed(
        strategy="single",
        processes=1,
        threads=2,
        tokens_per_second=[10.0, 30.0, 20.0],
        ratios=[1.0, 3.0, 2.0],
        sent_bytes_per_step=0.0,
    )
    (tmp_path / readings.RESULT_FILE).write_text(json.dumps({"speeds": [asdict(speed)]}))
    assert readings.strategies(tmp_path, "") == [
        {"way": "single", "tokens/s": 20.0, "ratio": 2.0, "least": 1.0, "most": 3.0}
    ]
    printed = "a.py::test_x[y z] PASSED [ 1%]\na.py::test_y FAILED [ 2%]\nb.py::test_z SKIPPED (no) [ 3%]\nPASSED"
    assert readings.tests(tmp_path, printed) == [
        {"tests": 1, "outcome": "passed"},
        {"tests": 1, "outcome": "failed"},
        {"tests": 1, "outcome": "skipped"},
        {"tests": "a.py::test_y", "outcome": "failed"},
    ]
    for read in (readings.attention, readings.loop, readings.strategies, readings.ranks):
        for broken in ("", "{", "[1]", '{"speeds": []', "null"):
            (tmp_path / readings.RESULT_FILE).write_text(broken)
            assert read(tmp_path, "") == []
    assert readings.loop(tmp_path / "none", "") == []


def test_both_files_say_which_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch.cuda and an nvidia-smi of our own making."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-aa, NVIDIA H200, 512, 143771, 580.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_properties=lambda index: SimpleNamespace(name="NVIDIA H200", total_memory=140 * 2**30),
        nccl=SimpleNamespace(version=lambda: (2, 28, 9)),
        synchronize=lambda: None,
    )
    found = describe(cuda)
    assert found.sentence.startswith("NVIDIA H200, 140 GiB, driver 580.1; ")
    assert "CUDA 13.0, NCCL 2.28.9" in found.sentence
    assert found.mps == "there is no nvidia-cuda-mps-control on the PATH"
    assert (
        "no GPU (PyTorch finds no CUDA device here)" in describe(SimpleNamespace(is_available=lambda: False)).sentence
    )
    row: Row = {"a | b": "x\ny", "n": 12_345, "none": None}
    Results(machine=found, steps=[StepResult(name="s", what="w", limit_s=1.0, rows=[row])]).write(tmp_path)
    assert json.loads((tmp_path / "gpu-check.json").read_text())["machine"]["device"] == "NVIDIA H200"
    text = (tmp_path / "gpu-check.md").read_text()
    assert "NVIDIA H200, 140 GiB" in text
    assert "| x y | 12,345 | – |" in text
    assert markdown(Results()).startswith("# GPU check\n\nno GPU ()")
