"""What `nvidia-smi` prints, understood; and nothing believed that it does not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.study.supervision.packing import nvidia
from ablab.study.supervision.packing.nvidia import Gpu, ask_driver, gpu_named, gpus

TWO = """0, GPU-aa11, NVIDIA H200, 512, 143771, 580.159.03
1, GPU-ab22, NVIDIA H200, 0, 143771, 580.159.03
"""


def test_each_line_is_a_gpu() -> None:
    first, second = gpus(lambda: TWO)
    assert first == Gpu(
        index="0",
        uuid="GPU-aa11",
        name="NVIDIA H200",
        used_bytes=512 * 2**20,
        total_bytes=143_771 * 2**20,
        driver="580.159.03",
    )
    assert (second.index, second.used_bytes) == ("1", 0)


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "No devices were found\n",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver, or so, they, say, it\n",
        "0, GPU-aa, NVIDIA A100, [N/A], [N/A], 550.1\n",  # cut by MIG
        "0, GPU-aa, NVIDIA GB10, [Not Supported], [Not Supported], 580.1\n",  # memory that is the host's, too
    ],
)
def test_what_is_not_told_is_not_known(printed: str) -> None:
    assert gpus(lambda: printed) == []


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    found = gpus(lambda: TWO)
    assert [gpu_named(name, found) for name in ("0", "1", "GPU-ab", "GPU-aa11")] == [*found, found[1], found[0]]
    for unsure in ("2", "GPU-a", "GPU-x", "MIG-aa11", ""):
        assert gpu_named(unsure, found) is None
    mixed = gpus(lambda: TWO.replace("H200", "T4", 1))
    assert gpu_named("0", mixed) is None  # CUDA counts the faster one first
    assert gpu_named("GPU-aa11", mixed) == mixed[0]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert gpu_named("0", mixed) == mixed[0]


@pytest.mark.parametrize(
    ("code", "printed"), [('echo "$@"', True), ("echo failed; exit 9", False), ("exec sleep 60", False)]
)
def test_a_driver_that_fails_or_hangs_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, printed: bool
) -> None:
    monkeypatch.setattr(nvidia, "_PATIENCE_S", 1.0)
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert bool(ask_driver()) == printed
    if printed:
        assert "--query-gpu=index,uuid,name,memory.used,memory.total,driver_version" in ask_driver()
    monkeypatch.setenv("PATH", "/nowhere")
    assert ask_driver() == ""
