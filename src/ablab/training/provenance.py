"""Where a result comes from: versions, the state of the working directory, the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from ablab.config import Node
from ablab.version import __version__

TOLD_GIT_STATE = "ABLAB_GIT_STATE"  # environment variable


def versions() -> dict[str, str]:
    """Versions of what computes the result."""
    return {"ablab": __version__, "python": platform.python_version(), "torch": torch.__version__, **_packages()}


@cache
def _packages() -> dict[str, str]:
    """What is installed of others: reading it takes a twentieth of the time of a small run."""
    return {name: version(name) for name in ("lightning", "hydra-core", "numpy")}


@cache
def git_state() -> Node | None:
    """Commit of the working directory and whether it has uncommitted changes; None where there is no git.

    A process whose code was copied when its sweep began is told what was true then.
    """
    if (told := os.environ.get(TOLD_GIT_STATE)) is not None:
        state: Node | None = json.loads(told)
        return state
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(*_without_programs(), "status", "--porcelain", "--ignore-submodules"))}


def machine(device: torch.device) -> Node:
    """The device that was trained on, and its host."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def _without_programs() -> list[str]:
    """Options with which git starts none of the programs that a repository's own config names: it may be anybody's."""
    filters = _git("config", "--local", "--name-only", "--get-regexp", r"^filter\.") or ""
    names = sorted({line.rpartition(".")[0] for line in filters.splitlines()})
    off = [f"{name}.{key}" for name in names for key in ("clean=", "process=", "required=false")]
    return [word for each in ("core.fsmonitor=false", *off) for word in ("-c", each)]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def _processor() -> str:
    """The processor's name: Linux keeps it here, and `platform.processor()` is empty there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
