"""Records survive their file, what is not a record says so, and clearing a run's folder removes what ablab wrote."""

import errno
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from synthetic import record

from ablab.errors import UserError
from ablab.results.communication import Collective, Communication, Process
from ablab.results.record import SCHEMA_VERSION, Anneal, Record
from ablab.results.run_folder import clear
from ablab.results.store import (
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    METRICS_FILE,
    RECORD_FILE,
    add_record,
    read_record,
    write_atomically,
    write_record,
)


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    written = record(3, 0.9, reason="Ω | ünïcode\nline")
    assert read_record(write_record(tmp_path, written)) == written


def communication() -> Communication:
    return Communication(
        processes=2,
        backend="gloo",
        steps=10,
        collectives=[
            Collective(
                kind="all-reduce", group=2, calls_per_step=1.5, payload_bytes_per_step=8.0, sent_bytes_per_step=8.0
            )
        ],
        collectives_per_step=1.5,
        payload_bytes_per_step=8.0,
        sent_bytes_per_step=8.0,
        each=[Process(peak_memory_bytes=10 + rank, payload_bytes_per_step=8, sent_bytes_per_step=8) for rank in (0, 1)],
    )


def test_what_processes_sent_survives_the_file(tmp_path: Path) -> None:
    written = record(communication=communication())
    assert read_record(write_record(tmp_path, written)) == written
    data = written.to_dict()
    data["communication"] |= {"future": 1, "collectives": [data["communication"]["collectives"][0] | {"future": 1}]}
    assert Record.from_dict(data) == written


def test_shorter_runs_of_a_run_survive_the_file(tmp_path: Path) -> None:
    shorter = tuple(
        Anneal(step=step, tokens=64 * step, flops=1e6 * step, metrics={"val_loss": 3.0 - step / 10}) for step in (2, 4)
    )
    written = record(annealed=shorter, rung="d_model=32,n_layers=2", ladder={"tokens": 256})
    assert read_record(write_record(tmp_path, written)) == written
    data = written.to_dict()
    assert [Record.from_dict(data | {"annealed": [{**vars(shorter[0]), "future": 1}]}).annealed] == [shorter[:1]]
    del data["annealed"], data["rung"], data["ladder"]
    assert (Record.from_dict(data).annealed, Record.from_dict(data).rung) == ((), None)  # of an earlier version


@pytest.mark.parametrize(
    ("annealed", "said"),
    [
        ([{"step": "two", "tokens": 1, "flops": 1.0, "metrics": {}}], "annealed is"),
        ([{"step": 2}], "missing"),
        ([3], "'int' object"),
        ([{"step": 2, "tokens": 1, "flops": 1.0, "metrics": {"val_loss": "low"}}], "annealed is"),
    ],
)
def test_shorter_runs_of_another_shape_are_damage(annealed: list[object], said: str) -> None:
    with pytest.raises(UserError, match=re.escape("a damaged record: ") + ".*" + re.escape(said)):
        Record.from_dict(record().to_dict() | {"annealed": annealed})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"processes": "two"}, "communication.processes is 'two'"),
        ({"overlap": "much"}, "communication.overlap is 'much'"),
        ({"each": [vars(communication().each[0]) | {"peak_memory_bytes": "x"}]}, "communication.each is"),
        ({"collectives": [3]}, "'int' object"),
    ],
)
def test_a_communication_of_another_shape_is_damaged(changes: dict[str, object], said: str) -> None:
    data = record(communication=communication()).to_dict()
    data["communication"] |= changes
    with pytest.raises(UserError, match=re.escape("a damaged record: ") + ".*" + re.escape(said)):
        Record.from_dict(data)


def test_non_finite_numbers_are_null_in_the_file_and_nan_again(tmp_path: Path) -> None:
    figures: dict[str, Any] = {"metrics": {"val_loss": math.inf}, "mechanism": {"schedule/lr": math.nan}}
    path = write_record(tmp_path, record(**figures, last={"val_loss": [1.0, math.inf]}))
    assert json.loads(path.read_text(encoding="utf-8"))["metrics"] == {"val_loss": None}
    found = read_record(path)
    assert math.isnan(found.metrics["val_loss"])
    assert math.isnan(found.mechanism["schedule/lr"])
    assert found.last["val_loss"] == pytest.approx([1.0, math.nan], nan_ok=True)


def test_fields_of_other_versions_are_dropped_and_missing_ones_defaulted() -> None:
    data = record().to_dict()
    data.update(future=1, metrics=None)
    data["cost"] = {"steps": 5, "future": 2}
    found = Record.from_dict(data)
    assert found.cost.steps == 5
    assert found.metrics == {}


def test_a_record_from_before_some_fields_loads() -> None:
    data = record().to_dict()
    del data["parameter_groups"], data["last"]
    assert Record.from_dict(data).parameter_groups == []
    assert Record.from_dict(data).last == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged JSON"),
        ("[]", "not a record"),
        ("{}", "it has no schema number"),
        (json.dumps({"schema": SCHEMA_VERSION + 1}), "upgrade ablab to read it"),
        (json.dumps({"schema": SCHEMA_VERSION}), "a damaged record"),
        (json.dumps({"schema": SCHEMA_VERSION, "metrics": []}), "a damaged record"),
        (json.dumps({"schema": SCHEMA_VERSION, "metrics": 3}), "a damaged record"),
    ],
)
def test_what_is_not_a_record_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / RECORD_FILE
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_record(path)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_record(tmp_path / RECORD_FILE)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    write_atomically(path, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full") as caught:
        write_atomically(path, "new")
    assert caught.value.filename == str(path)  # the system does not say which
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_is_added_only_where_there_is_none(tmp_path: Path) -> None:
    add_record(tmp_path, first := record(3, 0.9))
    with pytest.raises(FileExistsError):
        add_record(tmp_path, record(4, 0.8))
    assert read_record(tmp_path / RECORD_FILE) == first
    assert os.listdir(tmp_path) == [RECORD_FILE]


def test_colleagues_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomically(path, "x")
    assert path.stat().st_mode & 0o044 == 0o044


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": "x"}, "seed is 'x'"),
        ({"seed": True}, "seed is True"),
        ({"status": "fine"}, "status is 'fine'"),
        ({"variant": None}, "variant is None"),
        ({"axes": {"attention": ["full"]}}, "axes is {'attention': ['full']}"),
        ({"config": [["seed", 1]]}, "config is [['seed', 1]]"),
        ({"metrics": {"val_loss": "low"}}, "metrics is {'val_loss': 'low'}"),
        ({"primary": {"name": "val_loss", "split": "val", "direction": "down"}}, "primary.direction is 'down'"),
        ({"cost": {"parameters": 1.5}}, "cost.parameters is 1.5"),
        ({"notes": "fast"}, "notes is 'fast'"),
        ({"versions": {"torch": 2}}, "versions is {'torch': 2}"),
    ],
)
def test_a_record_with_a_field_of_another_type_is_damaged(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"a damaged record: {said}")):
        Record.from_dict(record().to_dict() | changes)


def test_a_value_of_theory_that_is_no_number_is_nan() -> None:
    assert math.isnan(Record.from_dict(record().to_dict() | {"oracle": {"ceiling": None}}).oracle["ceiling"])


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
