"""Components that fail in the ways that runs fail, and a folder to sweep over them in."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from commands import Command
from drawn import plain_figures
from hydra.core.global_hydra import GlobalHydra
from staged import Stage

from ablab.cli import main
from ablab.report import conclude
from ablab.study import launch, run_study

# Activations, so that a model is built before anything happens, and which do well when they are tried on one sample
# before that: they fail in the second training step.
FAULTY = """
import os
import signal
import sys
import time

import torch
from torch import nn


class Fault(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.passed = 0

    def forward(self, x):
        if x.is_meta:
            return x
        self.passed += self.training
        return self.fault(x) if self.training and self.passed > 1 else torch.relu(x)


class Raises(Fault):
    def fault(self, x):
        raise RuntimeError("the bulb is broken")


class Diverges(Fault):
    def fault(self, x):
        return x * float("nan")


class Killed(Fault):
    def fault(self, x):
        os.kill(os.getpid(), signal.SIGKILL)


class Slow(Fault):
    def fault(self, x):
        if os.path.exists("slow"):  # in the folder that the sweep was started in
            open("slow-began", "w").close()
            time.sleep(0.5)
        return torch.relu(x)


class RankDies(Fault):
    def fault(self, x):
        if os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.relu(x)


class RankRaises(Fault):
    def fault(self, x):
        if os.environ.get("RANK") == "1":
            raise RuntimeError("the second bulb is broken")
        return torch.relu(x)


class Leaves(Fault):
    def fault(self, x):
        os._exit(3)


class Aborts(Fault):
    # As C++ does with an exception that nobody catches.
    def fault(self, x):
        os.write(2, b"terminate called after throwing an instance of 'Bulb'\\n  what():  it is broken\\n")
        os.abort()


class Quits(Fault):
    def fault(self, x):
        sys.exit(3)


class KillsParentOnce(Fault):
    # The process that runs are forked from.
    def fault(self, x):
        if not os.path.exists("killed-parent"):  # in the folder that the supervisor works in
            open("killed-parent", "w").close()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(1000)
        return torch.relu(x)


class Hangs(Fault):
    def fault(self, x):
        time.sleep(1000)


class KilledOnce(Fault):
    # At its eighth forward pass in training, where a file says so, which is then gone.
    passes = 0

    def fault(self, x):
        if self.training:
            self.passes += 1
            mark = "kill-" + os.environ.get("RANK", "0")  # in the folder that the sweep was started in
            if self.passes == 8 and os.path.exists(mark):
                os.unlink(mark)
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.relu(x)


class Hungry(Fault):
    def fault(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1000 GiB.")
"""
OPTIONS = {"raises": "Raises", "diverges": "Diverges", "killed": "Killed", "slow": "Slow", "rank_dies": "RankDies"}
OPTIONS |= {"aborts": "Aborts", "leaves": "Leaves", "quits": "Quits", "kills_parent_once": "KillsParentOnce"}
OPTIONS |= {"hangs": "Hangs", "killed_once": "KilledOnce", "hungry": "Hungry", "rank_raises": "RankRaises"}

TINY = (
    "task=text",
    "task.seq_len=32",
    "task.batch_size=4",
    "task.eval_tokens=256",
    "model.d_model=16",
    "model.n_layers=1",
    "trainer.accelerator=cpu",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=2",
    "logger=csv",
)


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Overrides that make a run as small as it can be."""
    return TINY


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def runs(self) -> list[list[str]]:
        """The words of each line on a run that has ended."""
        return [line.split("]")[1].split() for line in self.out.splitlines() if re.match(r"\[ *\d+/\d+]", line)]


@dataclass
class Lab:
    """A folder to run `ablab` in, with options of its own beside those of the package."""

    folder: Path
    corpus: Path

    def words(self, *words: str) -> list[str]:
        """A command line with tiny settings."""
        return ["--config-dir", str(self.folder / "options"), f"task.path={self.corpus}", *TINY, *words]

    def sweep(self, *words: str) -> Ended:
        """Sweep with tiny settings and `words`, to the end."""
        return self.ablab(*self.words("-m", *words))

    def ablab(self, *words: str) -> Ended:
        """A command in this process, which has imported everything; the runs of a sweep have their own all the same.

        Figures of its report are drawn, and not laid out and written as SVG, which is most of the time of a conclusion:
        commands in processes of their own do that, and the tests of reports.
        """
        out, err = io.StringIO(), io.StringIO()
        GlobalHydra.instance().clear()
        with (
            contextlib.chdir(self.folder),
            mock.patch.object(sys, "argv", sys.argv),
            mock.patch.object(sys, "path", [str(self.folder), *sys.path]),
            mock.patch.dict(os.environ),
            plain_figures(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main(words)
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out.getvalue(), err.getvalue())

    def start(self, *words: str, session: bool = False, anew: bool = False, **env: str) -> Command:
        """The same in a process of its own, which is not waited for."""
        environment = os.environ | {"PYTHONPATH": str(self.folder)} | env
        return Command(list(words), self.folder, environment, session, anew=anew)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "faulty.py").write_text(FAULTY)
    activations = folder / "options" / "activation"
    activations.mkdir(parents=True)
    for option, name in OPTIONS.items():
        (activations / f"{option}.yaml").write_text(f"_target_: faulty.{name}\n_partial_: true\n")
    return Lab(folder, corpus)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Within the test, commands in this process train nothing, and conclude nothing."""
    stage = Stage()
    monkeypatch.setattr(launch, "Supervisor", stage)
    monkeypatch.setattr(launch, "freeze_code", lambda configs: None)
    monkeypatch.setattr(run_study, "warm_up", lambda: None)
    monkeypatch.setattr(conclude, "conclude_study", lambda folder, **terms: 0)
    return stage


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, object]]:
    """faulty("raises"): the config of that option, importable from this process and those that it starts."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty.py").write_text(FAULTY)
    sys.path.insert(0, str(folder))
    return lambda option: {"_target_": f"faulty.{OPTIONS[option]}", "_partial_": True}
