"""Clearing a run's folder removes what ablab wrote and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.errors import UserError
from ablab.results.store import CHECKPOINT_FOLDER, CONFIG_FILE, METRICS_FILE, RECORD_FILE, clear


def test_a_runs_files_go_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("seed: 0\naxes:\n  task: text\n")
    (tmp_path / CHECKPOINT_FOLDER).mkdir()
    for name in (METRICS_FILE, RECORD_FILE, "events.out.tfevents.1.host", f"{CHECKPOINT_FOLDER}/last.ckpt"):
        (tmp_path / name).write_text("x")
    kept = [tmp_path / "notes.txt", tmp_path / CHECKPOINT_FOLDER / "mine.ckpt"]
    for path in kept:
        path.write_text("x")
    clear(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


@pytest.mark.parametrize("name", [CONFIG_FILE, METRICS_FILE, f"{CHECKPOINT_FOLDER}/my.ckpt"])
def test_a_folder_of_another_program_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    with pytest.raises(UserError, match="which no run of ablab wrote"):
        clear(tmp_path)
    assert path.read_text() == "precious"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(UserError, match="in the way"):
        clear(tmp_path / "run")
