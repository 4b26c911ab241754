"""Settings of a task that change no metric make no other task; each other setting of each task does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic import CORPUS, record, runs_of

from ablab.analysis.comparison import compare
from ablab.config import conf_folder
from ablab.report.notes import notes_of
from ablab.results.record import Corpus, Record

OTHER_CORPUS = Corpus(name="other", sha256="cd" * 32, size_bytes=1000, files=2)
TASKS = sorted((conf_folder() / "task").glob("*.yaml"))
IDLE = {"task.workers", "task.eval_batch_size", "task.target"}
WHERE = {"path", "image_path", "audio_path", "name", "revision", "binary"}


def run(node: dict[str, Any], option: str = "relu", seed: int = 1, **changes: Any) -> Record:
    return record(seed, 1.0 + seed / 10, axes={"activation": option}, settings={"task": node}, **changes)


@pytest.mark.parametrize("path", TASKS, ids=[path.stem for path in TASKS])
def test_each_key_of_each_task(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    for key in (name for name in node if not name.startswith("_")):
        one, other = ({**node, key: value} for value in ("one", "other"))
        runs = [run({**each, "tokenizer": "bpe"} if key == "bpe_vocab_size" else each) for each in (one, other)]
        if key in ("max_depth", "max_args", "min_length"):
            assert node["path"] is None
        together = len(runs_of(runs).tasks) == 1
        assert together == (f"task.{key}" in IDLE or key in WHERE), key
        if key in WHERE:  # the same data are the same task wherever they lie, and other data are not
            elsewhere = [runs[0], run(other, corpus=OTHER_CORPUS)]
            assert len(runs_of(elsewhere).tasks) == 2
            assert len(runs_of([runs[0], run(other, corpus=None)]).tasks) == 2


def test_what_changes_something_with_another_setting_alone_makes_no_other_task_without_it() -> None:
    for key, node in {"bpe_vocab_size": {"tokenizer": "bytes"}, "max_depth": {"path": "arena"}}.items():
        assert len(runs_of([run({**node, key: 3}), run({**node, key: 4})]).tasks) == 1


@pytest.mark.parametrize("key", sorted(IDLE))
def test_runs_that_differ_in_it_are_pairs(key: str) -> None:
    name = key.removeprefix("task.")
    base = [run({name: 1}, seed=seed, study="first") for seed in (1, 2, 3, 4)]
    later = [run({name: 2}, "gelu", seed, study="second", corpus=CORPUS) for seed in (1, 2, 3, 4)]
    (item,) = compare(runs_of([*base, *later])).items
    assert item.seeds == (1, 2, 3, 4)
    assert item.variant == "activation=gelu"


def test_a_study_that_varies_a_key_of_speed_compares_its_values() -> None:
    runs = runs_of([run({"workers": workers}, seed=seed) for workers in (0, 2) for seed in (1, 2, 3)])
    assert runs.variants == ["task.workers=0", "task.workers=2"]
    assert len(compare(runs, metric="tokens_per_second").items[0].seeds) == 3


def test_steps_to_a_target_are_said_to_be_to_another_one() -> None:
    found = {"schedule/steps_to_target": 100.0}
    base = [run({"target": 0.9}, seed=seed, mechanism=found) for seed in (1, 2, 3, 4)]
    later = [run({"target": None}, "gelu", seed, mechanism=found) for seed in (1, 2, 3, 4)]
    items = [compare(runs_of([*base, *later]), metric=metric).items[0] for metric in ("schedule/steps_to_target", None)]
    said = ["Not given the same target: null against 0.9." in notes_of(item) for item in items]
    assert said == [True, False]
