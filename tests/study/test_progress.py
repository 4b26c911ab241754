"""The bar of a run: on a terminal, and nowhere else."""

from __future__ import annotations

import pytest

from ablab.study.progress import run_bar


def test_it_shows_how_far_and_how_good(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "160")
    with run_bar("seed=[0]") as report:
        report(3, 10, "val_loss [bold]2.5")
    shown = capsys.readouterr().out
    assert "seed=[0]" in shown
    assert "val_loss [bold]2.5" in shown
    assert "3/10" in shown


def test_it_prints_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with run_bar("seed=0") as report:
        report(3, 10, "val_loss 2.5")
    assert capsys.readouterr().out == ""
