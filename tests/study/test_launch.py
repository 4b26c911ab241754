"""A finished run of the very same config is kept; anything else is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablab.config import RunConfig
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, write_record
from ablab.study.launch import finished_record, tell_outdated, tell_replaced
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.prepare import info_of
from ablab.training.begin import new_record

TinyConfig = Callable[..., RunConfig]


def ended(config: RunConfig) -> Record:
    """The record of a run of `config` that went well, on the data that it names."""
    record = new_record(config)
    record.status, record.corpus = "ok", Preflight().task(config).corpus
    return record


@pytest.mark.parametrize(
    ("status", "retry_failed", "kept"),
    [
        *(("ok", True, True), ("diverged", True, True), ("failed", True, False), ("interrupted", True, False)),
        *(("ok", False, True), ("diverged", False, True), ("failed", False, True), ("interrupted", False, False)),
    ],
)
def test_what_is_done_with(
    tiny_config: TinyConfig, tmp_path: Path, status: Any, retry_failed: bool, kept: bool
) -> None:
    record = ended(config := tiny_config())
    record.status, record.attempts = status, 2
    write_record(tmp_path, record)
    found = finished_record(config, tmp_path, Preflight(), retry_failed)
    assert (found is not None) == kept
    if found is not None:
        assert found.status == status


def test_a_run_that_failed_before_it_read_its_data_is_kept(tiny_config: TinyConfig, tmp_path: Path) -> None:
    record = new_record(config := tiny_config())
    record.attempts = 2
    write_record(tmp_path, record)
    assert finished_record(config, tmp_path, Preflight(), retry_failed=False) is not None


@pytest.mark.parametrize(
    ("cause", "attempts", "kept"),
    [
        *(("killed", 1, False), ("killed", 2, True), ("error", 1, False)),
        *(("refused", 1, True), ("timeout", 1, True), ("disk", 1, False), ("disk", 2, False)),
    ],
)
def test_a_run_with_attempts_left_that_its_supervisor_did_not_live_to_make_is_not_done(
    tiny_config: TinyConfig, tmp_path: Path, cause: Any, attempts: int, kept: bool
) -> None:
    record = new_record(config := tiny_config("retries=1"))
    record.cause, record.attempts = cause, attempts
    write_record(tmp_path, record)
    assert (finished_record(config, tmp_path, Preflight(), retry_failed=False) is not None) == kept


def test_a_changed_setting_is_another_run_and_another_name_is_not(tiny_config: TinyConfig, tmp_path: Path) -> None:
    record = ended(tiny_config())
    write_record(tmp_path, record)
    assert finished_record(tiny_config("optimizer.lr=0.5"), tmp_path, Preflight(), retry_failed=True) is None
    assert finished_record(tiny_config("seed=1"), tmp_path, Preflight(), retry_failed=True) is None
    renamed = tiny_config("name=other", "logger=tensorboard", "jobs=2", "timeout=60")
    assert finished_record(renamed, tmp_path, Preflight(), retry_failed=True) is not None


def test_no_record_or_a_damaged_one_is_not_finished(tiny_config: TinyConfig, tmp_path: Path) -> None:
    assert finished_record(tiny_config(), tmp_path, Preflight(), retry_failed=True) is None
    (tmp_path / RECORD_FILE).write_text('{"schema": 1, "stat')
    assert finished_record(tiny_config(), tmp_path, Preflight(), retry_failed=True) is None


def test_the_same_run_on_other_data_is_not_finished(tiny_config: TinyConfig, tmp_path: Path) -> None:
    config = tiny_config()
    write_record(tmp_path, ended(config))
    corpus = Path(config.options["task"]["path"])
    text = corpus.read_text()
    try:
        corpus.write_text(text + "one line more\n")
        outdated: list[Path] = []
        assert finished_record(config, tmp_path, Preflight(), retry_failed=True, outdated=outdated) is None
        assert outdated == [tmp_path]
    finally:
        corpus.write_text(text)
    assert finished_record(config, tmp_path, Preflight(), retry_failed=True) is not None


@pytest.mark.parametrize(
    ("began_from", "listed", "kept"),
    [
        ("one", ["one", "two"], True),
        ("one", ["two"], False),
        ("one", [], True),  # whose checkpoints are gone
        ("one", None, True),
        (None, ["two"], True),  # of an earlier version
    ],
)
def test_a_fork_whose_trunk_was_trained_anew_is_not_finished(
    tiny_config: TinyConfig,
    tmp_path: Path,
    began_from: str | None,
    listed: list[str] | None,
    kept: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trunk, folder = tmp_path / "trunk", tmp_path / "fork"
    config = replace(tiny_config(), continue_from=str(trunk))
    record = ended(config)
    record.origin = began_from
    folder.mkdir()
    write_record(folder, record)
    if listed is not None:
        (trunk / "checkpoints").mkdir(parents=True)
        (trunk / "checkpoints" / "checksums.json").write_text(json.dumps([{"sha256": each} for each in listed]))
    outdated: list[Path] = []
    found = finished_record(config, folder, Preflight(), retry_failed=False, outdated=outdated)
    assert (found is not None) == kept
    assert outdated == ([] if kept else [folder])
    tell_outdated(outdated)
    assert ("the checkpoint they went on from, have changed" in capsys.readouterr().err) == (not kept)


def test_finished_runs_that_are_replaced_are_told(
    tiny_config: TinyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, longer = tiny_config(), tiny_config("trainer.max_steps=9")
    runs = [PlannedRun(info=info_of(longer, place), config=longer, folder=tmp_path / str(place)) for place in range(3)]
    tell_replaced(runs)
    for run in runs[1:]:
        run.folder.mkdir()
        write_record(run.folder, ended(config))
    tell_replaced(runs)
    assert capsys.readouterr().err == (
        f"ablab: {tmp_path / '1'} and 1 more: trained again, with trainer.max_steps=9, not 4\n"
    )
    tell_replaced([PlannedRun(info=info_of(config, 1), config=config, folder=tmp_path / "1")])
    assert capsys.readouterr().err == ""
