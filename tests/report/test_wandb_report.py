"""A study's report as a run of Weights & Biases, read back with W&B's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import forking_all
from omegaconf import OmegaConf
from synthetic import study, write_runs

from ablab.config import conf_folder
from ablab.report.commands import compare_command
from ablab.report.conclude import conclude
from ablab.report.wandb import SHOWN_FILE, WANDB_LOGGER
from ablab.results.record import Record
from ablab.results.wandb_runs import offline_folders, run_id

pytestmark = pytest.mark.usefixtures("_plain_figures")

RECORDS = {"relu": [1.0, 1.1, 1.05, 1.02], "gelu": [1.2, 1.31, 1.24, 1.22]}
WANDB = {"wandb": {"_target_": WANDB_LOGGER, "project": "tales", "entity": "me", "offline": True, "tags": ["mine"]}}


@pytest.fixture(autouse=True)
def _staging(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B keeps copies of an artifact's files until they are uploaded: in the user's home, if not told otherwise."""
    for name in ("DATA", "CACHE"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path_factory.mktemp(name)))


def logged(values: dict[str, list[float]], logger: dict[str, Any]) -> list[Record]:
    records = study(values)
    for each in records:
        each.config["logger"] = logger
    return records


def entries(folder: Path) -> list[dict[str, Any]]:
    """All that W&B wrote of the run in a folder of its."""
    (file,) = folder.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    with forking_all():
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in text.splitlines()]


def test_the_option_is_the_one_that_is_looked_for() -> None:
    assert OmegaConf.load(conf_folder() / "logger" / "wandb.yaml").wandb._target_ == WANDB_LOGGER


@pytest.mark.slow
def test_a_study_ends_with_a_run_for_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_runs(tmp_path, logged(RECORDS, WANDB))
    conclude(folder)
    assert capsys.readouterr().err == ""
    (lies,) = offline_folders(folder)
    found = entries(lies)
    (run,) = [entry["run"] for entry in found if entry["type"] == "run"]
    assert (run["project"], run["entity"], run["run_id"]) == ("tales", "me", run_id(folder))
    assert (run["run_group"], run["job_type"], run["display_name"]) == ("demo", "report", "demo report")
    assert run["tags"] == ["demo", "mine"]
    assert next(entry["exit"]["exit_code"] for entry in found if entry["type"] == "exit") == 0

    (path,) = lies.glob("files/media/table/verdicts_*.table.json")
    (first, *_) = json.loads(path.read_text())["data"]
    assert first[0].startswith("WORSE       gelu raises val_loss")
    (path,) = lies.glob("files/media/table/variants_*.table.json")
    table = json.loads(path.read_text())
    means = {row[table["columns"].index("variant")]: row[table["columns"].index("mean")] for row in table["data"]}
    assert means == pytest.approx({"activation=relu": 1.0425, "activation=gelu": 1.2425})
    (path,) = lies.glob("files/media/table/runs_*.table.json")
    assert len(json.loads(path.read_text())["data"]) == 8

    artifacts = {entry["artifact"]["name"]: entry["artifact"] for entry in found if entry["type"] == "artifact"}
    files = {
        (name, artifact["type"], part["path"]): Path(part["local_path"]).read_text(encoding="utf-8")
        for name, artifact in artifacts.items()
        if name.startswith("demo")
        for part in artifact["manifest"]["contents"]
    }
    assert files == {
        ("demo-comparison", "comparison", "comparison.csv"): compare_command([folder], format="csv"),
        ("demo-comparison", "comparison", "comparison.json"): compare_command([folder], format="json"),
        ("demo-report", "report", "report.html"): (folder / "report.html").read_text(encoding="utf-8"),
    }


@pytest.mark.slow
def test_what_has_not_changed_is_not_shown_again(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, logged(RECORDS, WANDB))
    conclude(folder)
    conclude(folder)
    assert len(offline_folders(folder)) == 1
    write_runs(folder, logged({**RECORDS, "glu": [1.0, 1.0, 1.1, 1.2]}, WANDB))
    conclude(folder)
    assert len(offline_folders(folder, run_id(folder))) == 2


def test_a_study_that_was_not_logged_there_is_not_shown_there(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, logged(RECORDS, {}))
    conclude(folder)
    assert not (folder / "wandb").exists()
    assert not (folder / "wandb-run-id").exists()


def test_a_failure_costs_the_study_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablab.results.wandb_runs.has_key", lambda: False)
    folder = write_runs(tmp_path, logged(RECORDS, {"w": {**WANDB["wandb"], "offline": False}}))
    assert conclude(folder) == ["ok"] * 8
    printed = capsys.readouterr()
    assert printed.err.startswith("ablab: the report is not in W&B: W&B could not start (no API key")
    assert printed.err.count("\n") == 1
    assert printed.out.splitlines()[-1].startswith("report: ")
    assert not (folder / SHOWN_FILE).exists()
