"""A finished run of the very same config is kept; anything else is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, write_record
from ablab.study.planning.preflight import Preflight
from ablab.study.resume import finished_record
from ablab.training.run import new_record

TinyConfig = Callable[..., dict[str, Any]]


def ended(config: dict[str, Any]) -> Record:
    """The record of a run of `config` that went well, on the data that it names."""
    record = new_record(config)
    record.status, record.corpus = "ok", Preflight().task(config).corpus
    return record


@pytest.mark.parametrize(
    ("status", "kept"), [("ok", True), ("diverged", True), ("failed", False), ("interrupted", False)]
)
def test_only_what_has_ended_by_itself_is_finished(
    tiny_config: TinyConfig, tmp_path: Path, status: Any, kept: bool
) -> None:
    record = ended(config := tiny_config())
    record.status = status
    write_record(tmp_path, record)
    found = finished_record(config, tmp_path, Preflight())
    assert (found is not None) == kept
    if found is not None:
        assert found.status == status


def test_a_changed_setting_is_another_run_and_another_name_is_not(tiny_config: TinyConfig, tmp_path: Path) -> None:
    record = ended(tiny_config())
    write_record(tmp_path, record)
    assert finished_record(tiny_config("optimizer.lr=0.5"), tmp_path, Preflight()) is None
    assert finished_record(tiny_config("seed=1"), tmp_path, Preflight()) is None
    assert finished_record(tiny_config("name=other", "logger=tensorboard"), tmp_path, Preflight()) is not None


def test_no_record_or_a_damaged_one_is_not_finished(tiny_config: TinyConfig, tmp_path: Path) -> None:
    assert finished_record(tiny_config(), tmp_path, Preflight()) is None
    (tmp_path / RECORD_FILE).write_text('{"schema": 1, "stat')
    assert finished_record(tiny_config(), tmp_path, Preflight()) is None


def test_the_same_run_on_other_data_is_not_finished(tiny_config: TinyConfig, tmp_path: Path) -> None:
    config = tiny_config()
    write_record(tmp_path, ended(config))
    corpus = Path(config["task"]["path"])
    text = corpus.read_text()
    try:
        corpus.write_text(text + "one line more\n")
        assert finished_record(config, tmp_path, Preflight()) is None
    finally:
        corpus.write_text(text)
    assert finished_record(config, tmp_path, Preflight()) is not None
