"""Evaluations elsewhere as files: their names, what is written and read, and where readers find them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import CORPUS, evaluation, record, write_runs

from ablab.errors import UserError
from ablab.results.collect import collect
from ablab.results.evaluation import Evaluation, evaluation_name, file_name, is_name, metric_name
from ablab.results.keep import keep
from ablab.results.record import Record
from ablab.results.run_folder import clear
from ablab.results.store import EVALUATION_FOLDER, read_evaluations, read_record, write_evaluation, write_record

KEYS = st.sampled_from(["task", "task.seq_len", "task.path", "task.eval_tokens", "checkpoint"])
VALUES = st.one_of(
    st.integers(0, 10**6).map(str), st.sampled_from(["text", "a/b.txt", "null", "best", "last", "'x y'"])
)
WORDS = st.dictionaries(KEYS, VALUES).map(lambda chosen: [f"{key}={value}" for key, value in chosen.items()])


@given(WORDS, st.randoms(use_true_random=False))
def test_a_name_depends_on_what_is_asked_for_alone(words: list[str], random: object) -> None:
    name = evaluation_name(words)
    shuffled = list(words)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert evaluation_name(shuffled) == name
    assert is_name(name)
    assert metric_name(f"val_loss@{','.join(shuffled)}") == f"val_loss@{name}"


@given(st.text(max_size=200), st.text(max_size=200))
def test_different_names_have_different_files_in_the_same_folder(one: str, other: str) -> None:
    files = [file_name(name) for name in (one, other)]
    assert (files[0] == files[1]) == (one == other)
    assert all(Path(name).name == name and len(name.encode()) < 255 and name.isascii() for name in files)


def test_names() -> None:
    assert evaluation_name([]) == evaluation_name(["checkpoint=best"]) == "checkpoint=best"
    assert evaluation_name(["task.seq_len=1_024", "checkpoint=best"]) == "task.seq_len=1024"
    assert evaluation_name(["task.path=b", "task=text", "checkpoint=last"]) == "task=text,checkpoint=last,task.path=b"
    assert metric_name("val_loss") == "val_loss"
    assert file_name("task.seq_len=1024") == "task.seq_len=1024.json"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = evaluation("task.seq_len=64", "f", metrics={"val_loss": 1.5, "val_bits_per_byte": math.inf})
    assert write_evaluation(tmp_path, made) == tmp_path / EVALUATION_FOLDER / "task.seq_len=64.json"
    read = read_evaluations(tmp_path, "f")[made.name]
    assert math.isnan(read.metrics.pop("val_bits_per_byte"))
    made.metrics.pop("val_bits_per_byte")
    assert read == made
    assert Evaluation.from_dict(read.to_dict() | {"of_a_later_version": 1}) == read
    with pytest.raises(UserError, match=r"task\.seq_len=64\.json: an evaluation of another run"):
        read_evaluations(tmp_path, "g")


def test_readers_find_them_and_the_record_does_not_change(tmp_path: Path) -> None:
    study = write_runs(tmp_path / "study", [record(1, 2.0), record(2, 3.0, axes={"activation": "gelu"})])
    before = (study / "0" / "record.json").read_bytes()
    write_evaluation(study / "0", evaluation("task.seq_len=64", record(1).fingerprint, 2.5))
    runs = collect([study])
    assert runs.table["val_loss@task.seq_len=64"].tolist()[0] == 2.5
    assert runs.table["val_loss@task.seq_len=64"].isna().tolist() == [False, True]
    assert runs.records[0].measured["val_loss@task.seq_len=64"] == 2.5
    write_record(tmp_path, runs.records[0])
    assert (tmp_path / "record.json").read_bytes() == before == (study / "0" / "record.json").read_bytes()


def test_no_record_brings_evaluations_of_its_own() -> None:
    forged = record(1).to_dict() | {"evaluations": {"task.seq_len=64": evaluation("task.seq_len=64", "f").to_dict()}}
    assert Record.from_dict(forged).evaluations == {}


def test_they_are_kept_with_the_rest(tmp_path: Path) -> None:
    study = write_runs(tmp_path / "study", [record(1, 2.0), record(2, 3.0)])
    file = tmp_path / "kept.jsonl.xz"
    keep(study, file)
    without = file.read_bytes()
    write_evaluation(study / "1", evaluation("task.seq_len=64", record(2).fingerprint, 3.5))
    assert "1 evaluations elsewhere" in keep(study, file)
    kept, lying = collect([file]), collect([study])
    assert [each.evaluations for each in kept.records] == [each.evaluations for each in lying.records]
    assert kept.records[1].measured["val_loss@task.seq_len=64"] == 3.5
    (study / "1" / EVALUATION_FOLDER / "task.seq_len=64.json").unlink()
    keep(study, file)
    assert file.read_bytes() == without


def test_another_run_in_the_folder_takes_them_away(tmp_path: Path) -> None:
    write_record(tmp_path, record(1))
    write_evaluation(tmp_path, evaluation("task.seq_len=64", record(1).fingerprint))
    (tmp_path / EVALUATION_FOLDER / "mine.txt").write_text("mine")
    clear(tmp_path)
    assert [path.name for path in (tmp_path / EVALUATION_FOLDER).iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 2}, "has schema 2, this ablab reads up to 1"),
        ({"schema": None}, "not an evaluation"),
        ({"name": 3}, "not an evaluation"),
        ({"name": "b=2,a=1"}, "its name is 'b=2,a=1'"),
        ({"metrics": {"val_loss": "1"}}, "a damaged evaluation: metrics is"),
        ({"metrics": [1]}, "a damaged evaluation"),
        ({"corpus": {"name": "x"}}, "a damaged evaluation"),
        ({"primary": None}, "a damaged evaluation: primary is None"),
        ({"time_s": 1e200}, "time_s is no time"),
    ],
)
def test_damage_is_said_with_the_file(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    whole = evaluation("task.seq_len=64", "f").to_dict()
    (tmp_path / EVALUATION_FOLDER).mkdir()
    path = tmp_path / EVALUATION_FOLDER / "a.json"
    path.write_text(json.dumps(whole | changes))
    with pytest.raises(UserError, match=said) as refused:
        read_evaluations(tmp_path, "f")
    assert str(path) in str(refused.value)


def test_records_are_read_without_them(tmp_path: Path) -> None:
    """Who supervises runs has no use for them."""
    path = write_record(tmp_path, record(1))
    write_evaluation(tmp_path, evaluation("task.seq_len=64", record(1).fingerprint, corpus=CORPUS))
    assert read_record(path).evaluations == {}
