"""Loggers that know nothing of ablab, by config alone."""

from __future__ import annotations

import inspect
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pandas as pd
import pytest
import yaml
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

from ablab.config import RunConfig, conf_folder
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.study.planning.preflight import Preflight
from ablab.training.loggers import build_loggers

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]

PLAIN = {
    "_target_": "lightning.pytorch.loggers.CSVLogger",
    "save_dir": "{study_folder}/plain",
    "name": "{study}/{task}/{variant}/{other}",
    "version": "seed={seed}",
}


def option(name: str) -> dict[str, Any]:
    node: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "logger" / f"{name}.yaml"))
    return {str(key): value for key, value in node.items()}


def test_a_logger_of_lightnings_by_config_alone(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    config = tiny_config("seed=3", "attention=windowed", "attention.window=7")
    config.options["logger"] = {"plain": PLAIN}
    Preflight().check(config)
    folder = tmp_path / "tests" / "here"  # the study's name is "tests"
    record = run(config, folder)
    assert (record.status, record.reason) == ("ok", None)
    lies = tmp_path / "tests" / "plain" / "tests/text/attention=windowed,attention.window=7/{other}" / "seed=3"
    settings = yaml.safe_load((lies / "hparams.yaml").read_text())
    assert (settings["seed"], settings["attention"]["window"]) == (3, 7)
    assert not {"logger", "design", "name"} & set(settings)
    curves = pd.read_csv(lies / "metrics.csv")
    assert curves["val_loss"].dropna().tolist()[-1] == pytest.approx(record.metrics["val_loss"])
    last = curves[curves["step"] == record.cost.steps]
    assert last["final/val_loss"].dropna().tolist() == [pytest.approx(record.metrics["val_loss"])]
    assert last["cost/parameters"].dropna().tolist() == [record.cost.parameters]


def test_it_is_told_that_a_run_failed(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    config = tiny_config("optimizer.lr=1e30", "trainer.max_steps=20")
    config.options["logger"] = {"plain": PLAIN}
    assert run(config, tmp_path).status == "diverged"
    (path,) = tmp_path.rglob("plain/**/metrics.csv")
    columns = pd.read_csv(path).columns
    assert "cost/parameters" in columns
    assert not [name for name in columns if name.startswith("final/")]


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (
            {"_target_": "nowhere_to_be_found.Logger"},
            "nowhere_to_be_found.Logger: there is no module nowhere_to_be_found",
        ),
        ({**PLAIN, "save_dri": "x"}, r"logger.mine could not be begun .*unexpected keyword argument 'save_dri'"),
    ],
)
def test_one_that_cannot_be_built(tmp_path: Path, node: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        build_loggers({"mine": node}, tmp_path, "study", "", 0, {})
    assert "\n" not in str(error.value)


def test_what_is_missing_is_said_before_anything_runs(tiny_config: TinyConfig) -> None:
    config = tiny_config()
    config.options["logger"] = {"mine": {"_target_": "nowhere_to_be_found.Logger"}}
    with pytest.raises(UserError, match=r"logger.mine._target_: .* there is no module nowhere_to_be_found"):
        Preflight().check(config)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's, by a later SQLAlchemy
def test_mlflow(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason="pip install 'ablab[mlflow]'")
    study = tmp_path / "tests"
    for seed in (0, 1):
        config = tiny_config("logger=mlflow", "attention=windowed", f"seed={seed}")
        Preflight().check(config)
        record = run(config, study / f"seed={seed}")
        assert (record.status, record.reason) == ("ok", None)
    with sqlite3.connect(study / "mlflow.db") as database:

        def rows(query: str) -> list[Any]:
            return database.execute(query).fetchall()

        assert ("tests",) in rows("select name from experiments")
        assert rows("select name, status from runs order by name") == [
            ("attention=windowed seed=0", "FINISHED"),
            ("attention=windowed seed=1", "FINISHED"),
        ]
        assert rows("select value from params where key = 'seed' order by value") == [("0",), ("1",)]
        assert rows("select distinct value from tags where key = 'variant'") == [("attention=windowed",)]
        final = rows("select value from metrics where key = 'final/val_loss' order by value desc")
        assert (record.metrics["val_loss"],) in final
        assert len(final) == 2
    database.close()
    assert not Path("mlruns").exists()


class AimLogger(Logger):
    """In the place of Aim's, with the settings of version 3.29."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self,
        repo: str | None = None,
        experiment: str | None = None,
        train_metric_prefix: str | None = "train_",
        val_metric_prefix: str | None = "val_",
        test_metric_prefix: str | None = "test_",
        system_tracking_interval: int | None = 10,
        log_system_params: bool | None = True,
        capture_terminal_logs: bool | None = True,
        run_name: str | None = None,
        run_hash: str | None = None,
    ) -> None:
        super().__init__()
        self.made.append({"repo": repo, "experiment": experiment, "run_name": run_name})

    @property
    def name(self) -> str:
        return "aim"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.made[-1].update(metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.made[-1]["params"] = params


def test_aims_option_suits_its_logger(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended = ModuleType("aim.pytorch_lightning")
    pretended.AimLogger = AimLogger  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "aim", ModuleType("aim"))
    monkeypatch.setitem(sys.modules, "aim.pytorch_lightning", pretended)
    assert set(option("aim")["aim"]) - {"_target_"} <= set(inspect.signature(AimLogger).parameters)
    config = tiny_config("logger=aim", "attention=windowed", "seed=5")
    Preflight().check(config)
    record = run(config, tmp_path / "tests" / "run")
    assert (record.status, record.reason) == ("ok", None)
    (made,) = AimLogger.made
    assert made["repo"] == str(tmp_path / "tests")
    assert (made["experiment"], made["run_name"]) == ("tests", "attention=windowed seed=5")
    assert made["params"]["seed"] == 5
    assert made["final/val_loss"] == record.metrics["val_loss"]
