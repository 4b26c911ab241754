"""A tiny study that was really trained, as a stranger could have made it; each test spoils a copy of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from strangers import RUN, Ended, Hostile, Marker

from ablab.cli import main
from ablab.config import ComparisonConfig, RunConfig
from ablab.results.record import Record
from ablab.results.run_context import RunContext
from ablab.study.events import RunOutline
from ablab.study.plan_file import PlannedRun, write_plan


@pytest.fixture(scope="session")
def study(
    tiny_config: Callable[..., RunConfig],
    run: Callable[[RunConfig, Path], Record],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A plan of one run, which was trained: its record, curves and checkpoints are there."""
    folder = tmp_path_factory.mktemp("study")
    config = tiny_config("trainer.devices=1")
    run(config, folder / RUN)
    info = RunOutline(index=0, variant="activation=relu", task="text", seed=0, steps=config.trainer.max_steps)
    context = RunContext(variant="activation=relu", index=0)
    write_plan(folder, ComparisonConfig(), [PlannedRun(info=info, config=config, folder=folder / RUN, context=context)])
    return folder


@pytest.fixture
def hostile(study: Path, tmp_path: Path) -> Hostile:
    shutil.copytree(study, tmp_path / "study")
    return Hostile(tmp_path / "study", Marker(tmp_path / "marker"))


@pytest.fixture
def ablab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """ablab("generate", ...): the command in this process; runs have processes of their own all the same."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("GOMP_SPINCOUNT", "HYDRA_FULL_ERROR", "PYTHONSAFEPATH"):  # which it sets for its own process
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def command(*words: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(words)
        return Ended(ended.value.code, *capsys.readouterr())

    return command
