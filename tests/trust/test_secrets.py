"""A secret that a run is given is in none of its files, whatever writes them; and the run is resumed all the same."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawn import plain_figures
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from strangers import Ended

from ablab.config import conf_folder
from ablab.config.redact import redact_yaml
from ablab.results.wandb_runs import offline_folders, run_id
from ablab.study.supervision.preload import SNAPSHOT
from ablab.training.provenance import TOLD_GIT_STATE

KEYED = """
from ablab.model.activation.stateless import ReLU


class Keyed(ReLU):
    def __init__(self, spec, *, api_key):
        super().__init__(spec)
        if api_key != "correct-horse-1":
            raise ValueError(f"no such key: {api_key}")
"""
TINY = ("task=text", "task.seq_len=32", "task.batch_size=4", "task.eval_tokens=256", "model.d_model=16")
STEPS = ("model.n_layers=1", "trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.val_check_interval=1")
KEY, ENVIRONMENT = "correct-horse-1", "battery-staple-2"


def test_no_file_holds_a_secret(
    ablab: Callable[..., Ended], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "keyed.py").write_text(KEYED)
    monkeypatch.setenv("SOME_SERVICE_TOKEN", ENVIRONMENT)
    words = [
        *("-m", "name=keyed", f"task.path={corpus}", *TINY, *STEPS, "logger=all", "activation._target_=keyed.Keyed"),
        *(f"+activation.api_key={KEY}", "question=Is ${oc.env:SOME_SERVICE_TOKEN} in it?", "seed=0,1"),
        "logger.wandb.tags=['${oc.env:SOME_SERVICE_TOKEN}']",
    ]
    ended = ablab(*words)
    assert ended.status == 0, ended
    study = tmp_path / "here" / "outputs" / "keyed"
    files = [path for path in study.rglob("*") if path.is_file()]
    assert {"config.yaml", "record.json", "plan.json", "report.html"} <= {path.name for path in files}
    for path in files:
        for secret in (KEY, ENVIRONMENT):
            assert secret.encode() not in path.read_bytes(), path
            assert secret not in str(path)
    of_wandb = [len(offline_folders(folder, run_id(folder))) for folder in (study / "seed=0", study / "seed=1", study)]
    assert of_wandb == [1, 1, 1]  # a run each, and one for the report
    assert len({run_id(path.parent) for path in study.rglob("wandb-run-id")}) == 3

    with plain_figures():
        again = ablab(*words)
        assert (again.status, "kept" in again.out) == (0, True)
        next(study.rglob("record.json")).unlink()
        refused = ablab("resume", str(study), "--trust")
        assert (refused.status, "ACTIVATION_API_KEY" in refused.err) == (2, True)
        monkeypatch.setenv("ACTIVATION_API_KEY", KEY)
        assert ablab("resume", str(study), "--trust").status == 0


def test_jobs_of_another_launcher_have_a_secret_from_their_environment(
    ablab: Callable[..., Ended], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it pickles for them, and the copies of code and configs that they read, hold none."""
    here = tmp_path / "here"
    (here / "mine" / "study").mkdir(parents=True)
    (here / "keyed_by_parts.py").write_text(KEYED.replace(f'"{KEY}"', "'-'.join(['correct', 'horse', '1'])"))
    (here / "mine" / "study" / "keyed.yaml").write_text(f"# @package _global_\nactivation:\n  api_key: {KEY}\n")
    monkeypatch.setenv("SOME_SERVICE_TOKEN", ENVIRONMENT)
    for name in ("ACTIVATION_API_KEY", "PYTHONPATH", SNAPSHOT, TOLD_GIT_STATE):  # which it sets for its jobs
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    pickled: list[bytes] = []

    def launch(self: Any, job_overrides: Any, initial_job_idx: int) -> Any:
        configs = [OmegaConf.to_yaml(each) for each in (self.config, HydraConfig.instance().cfg)]
        pickled.append("".join([*configs, str(job_overrides)]).encode())
        raise RuntimeError("no job is started")

    Plugins.instance()  # loads it
    basic = sys.modules["hydra._internal.core_plugins.basic_launcher"].BasicLauncher
    monkeypatch.setattr(basic, "launch", launch)
    words = ("-m", "--config-dir", "mine", "study=keyed", "hydra/launcher=basic", "name=keyed", f"task.path={corpus}")
    ended = ablab(*words, *TINY, *STEPS, "logger=csv", "activation._target_=keyed_by_parts.Keyed", "seed=0")
    assert "no job is started" in ended.err, ended
    files = [path for path in (here / "outputs").rglob("*") if path.is_file()]
    [copied] = [path for path in files if path.name == "keyed.yaml"]
    assert copied.read_text().splitlines()[-1] == "  api_key: '***'"
    assert len(pickled) == 1
    for content in [*pickled, *(path.read_bytes() for path in files)]:
        assert KEY.encode() not in content
        assert ENVIRONMENT.encode() not in content
    assert os.environ["ACTIVATION_API_KEY"] == KEY


def test_a_study_without_a_plan_yet_is_resumed_with_no_stand_in_for_a_secret(
    ablab: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACTIVATION_API_KEY", "API_KEY"):
        monkeypatch.delenv(name, raising=False)
    command = ["-m", "name=keyed", *TINY, "+activation.api_key=***"]
    plan = {"schema": 2, "command": command, "working_folder": str(tmp_path), "python_path": [], "comparison": {}}
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"runs": None}))
    refused = ablab("resume", str(tmp_path), "--trust")
    assert (refused.status, "ACTIVATION_API_KEY" in refused.err) == (2, True), refused


def test_the_configs_of_the_menu_have_no_secrets() -> None:
    for path in conf_folder().rglob("*.yaml"):
        assert redact_yaml(path.read_text()) == path.read_text(), path


def test_a_secret_is_no_variant(ablab: Callable[..., Ended], corpus: Path) -> None:
    ended = ablab("-m", f"task.path={corpus}", *TINY, "+activation.api_key=correct-horse-1,battery-staple-2")
    assert ended.status == 2
    assert "activation.api_key: is a secret" in ended.err
    assert KEY not in ended.err
