"""Says what machine this is: `python -m ablab.bench.gpu.describe FILE`. A process of its own, for a driver may hang."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ablab.bench.gpu.results import Machine
from ablab.results.store import write_atomically
from ablab.study.supervision.packing.mps import at_hand
from ablab.study.supervision.packing.nvidia import gpu_named, gpus
from ablab.training.provenance import git_state, machine


def describe(cuda: Any = torch.cuda) -> Machine:
    """The machine, with the first GPU that this process may use.

    Args:
        cuda: has the interface of `torch.cuda`.
    """
    host = machine(torch.device("cpu"))
    found = Machine(
        torch=torch.__version__,
        triton=_version("triton"),
        processor=host["processor"],
        cores=host["cores"],
        git=git_state(),
    )
    if not cuda.is_available():
        found.reason = (
            "PyTorch finds no CUDA device here" if torch.version.cuda else "this PyTorch is built without CUDA"
        )
        return found
    properties = cuda.get_device_properties(0)
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    told = gpu_named(first, gpus())
    found.device, found.memory_bytes = properties.name, properties.total_memory
    found.driver = told.driver if told is not None else ""
    found.cuda = torch.version.cuda or ""
    found.nccl = ".".join(map(str, cuda.nccl.version()))
    found.mps = at_hand() or "at hand"
    cuda.synchronize()  # it is there, and it answers
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    write_atomically(Path(sys.argv[1]), json.dumps(asdict(describe())))
