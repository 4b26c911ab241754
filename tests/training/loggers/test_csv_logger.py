"""metrics.csv, read back with pandas as the report does."""

import math
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from ablab.results.store import METRICS_FILE
from ablab.training.loggers.csv import CurvesLogger


def read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / METRICS_FILE)


def test_rows_are_on_the_disk_at_once_and_the_header_grows(tmp_path: Path) -> None:
    logger = CurvesLogger(tmp_path)
    logger.log_metrics({"train_loss": torch.tensor(2.5), "epoch": 0}, step=9)
    logger.log_metrics({"train_loss": 2.0, "epoch": 0}, step=19)
    assert read(tmp_path).to_dict("list") == {"step": [9, 19], "epoch": [0, 0], "train_loss": [2.5, 2.0]}
    logger.log_metrics({"val_loss": 2.25, "epoch": 0}, step=19)
    logger.log_metrics({"train_loss": math.nan, "epoch": 0}, step=29)
    curves = read(tmp_path)  # the file is still open, as after a kill
    assert list(curves) == ["step", "epoch", "train_loss", "val_loss"]
    assert curves["val_loss"].dropna().to_dict() == {2: 2.25}
    assert (tmp_path / METRICS_FILE).read_bytes().endswith(b"\n29,0,nan,\n")  # diverged, and not logged
    logger.close("ok")


def test_a_resume_continues_the_file_without_repeating_it(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()

    def train(folder: Path, steps: range) -> None:
        logger = CurvesLogger(folder)
        for step in steps:
            logger.log_metrics({"train_loss": 1 / (step + 1)}, step)
            if step % 5 == 4:
                logger.log_metrics({"val_loss": 2 / (step + 1)}, step - 1)  # Lightning counts so when it evaluates
        logger.close("ok")

    train(whole, range(12))
    train(killed, range(11))  # the last checkpoint was after step 8
    train(killed, range(9, 12))
    assert (killed / METRICS_FILE).read_text() == (whole / METRICS_FILE).read_text()


def test_another_metric_of_the_step_before_stays(tmp_path: Path) -> None:
    for metrics in ({"train_loss": 1.0, "epoch": 0}, {"val_loss": 2.0, "epoch": 0}, {"val_loss": 3.0, "epoch": 0}):
        logger = CurvesLogger(tmp_path)
        logger.log_metrics(metrics, step=4)
        logger.close("ok")
    curves = read(tmp_path)
    assert curves["train_loss"].dropna().tolist() == [1.0]
    assert curves["val_loss"].dropna().tolist() == [3.0]


def test_a_row_that_a_crash_cut_off_is_dropped(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text("step,train_loss\n0,1.0\n1")  # of "19,0.5"
    logger = CurvesLogger(tmp_path)
    logger.log_metrics({"train_loss": 0.5}, step=19)
    assert read(tmp_path).to_dict("list") == {"step": [0, 19], "train_loss": [1.0, 0.5]}
    logger.close("ok")


def test_nothing_is_written_before_something_is_logged(tmp_path: Path) -> None:
    CurvesLogger(tmp_path).close("failed")
    assert os.listdir(tmp_path) == []


def test_a_step_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need a step"):
        CurvesLogger(tmp_path).log_metrics({"train_loss": 1.0})
