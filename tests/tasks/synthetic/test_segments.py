"""Recall at several lengths: further subsets of the test split, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ablab.config import RunConfig
from ablab.results.record import Record
from ablab.tasks.base import IGNORED
from ablab.tasks.synthetic.base import Split, belongs
from ablab.tasks.synthetic.recall import Recall

SETTINGS = {"seq_len": 24, "vocab_size": 32, "pairs": 4, "power_a": 0.5, "batch_size": 4, "seed": 1}
SEGMENTS = [[48, 4], [32, 8]]
NAMES = ["seq_len=24,pairs=4", "seq_len=48,pairs=4", "seq_len=32,pairs=8"]


def make(**changes: Any) -> Recall:
    return Recall(**{**SETTINGS, "eval_samples": 20, "segments": SEGMENTS, **changes})


def test_the_test_split_has_every_segment_and_validation_the_main_one_alone() -> None:
    task, plain = make(), make(segments=[])
    assert (task.subsets("val"), task.subsets("test")) == ([""], NAMES)
    assert (plain.subsets("val"), plain.subsets("test")) == ([""], [""])
    assert (task.seq_len, task.max_length, plain.max_length) == (24, 48, 24)
    loader = task.test_dataloader()
    assert not isinstance(loader, list)
    for inputs, targets, subset in loader:
        length, pairs = [(24, 4), *map(tuple, SEGMENTS)][subset]
        assert inputs.shape == targets.shape == (20, length)
        assert belongs(inputs.numpy(), "test").all()
        for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
            told = dict(zip(row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
            asked = {row[place]: answer for place, answer in enumerate(answers) if answer != IGNORED}
            assert asked == told
            assert len(told) == pairs
    assert len(loader) == 3


def test_segments_change_nothing_else() -> None:
    task, plain = make(), make(segments=[])
    for split in ("val", "test"):
        assert all(np.array_equal(*both) for both in zip(task.samples(split), plain.samples(split), strict=True))
    ours: Any = task.train_batches(0, 1)[3][0]
    theirs: Any = plain.train_batches(0, 1)[3][0]
    assert torch.equal(ours, theirs)
    assert task.oracle == plain.oracle
    assert "segments" not in plain.described
    assert task.described["segments"] == SEGMENTS


def test_a_run_records_the_accuracy_of_each_segment(
    tiny_config: Callable[..., RunConfig], run: Callable[[RunConfig, Path], Record], tmp_path: Path
) -> None:
    config = tiny_config("task=recall", "task.pairs=4", "task.vocab_size=32", "task.segments=[[48,4],[32,8]]")
    metrics = run(config, tmp_path / "run").metrics
    names = ["seq_len=32,pairs=4", "seq_len=48,pairs=4", "seq_len=32,pairs=8"]
    accuracies = [metrics[f"test_accuracy/{name}"] for name in names]
    assert metrics["test_accuracy"] == pytest.approx(np.average(accuracies, weights=[4, 4, 8]))
    assert not [name for name in metrics if name.startswith("val_accuracy/")]


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ([[48]], r"task\.segments: \[48\] must be two numbers"),
        ([[48, 13]], r"task\.segments: \[48, 13\] is impossible: task\.pairs=13"),
        ([[256, 16]], r"task\.segments: \[256, 16\] is impossible: task\.vocab_size=32 has 15 keys"),
        ([[0, 4]], r"task\.segments: \[0, 4\] is impossible: task\.seq_len must be at least 1"),
        ([[24, 4]], r"task\.segments: seq_len=24,pairs=4 is there twice"),
        ([[48, 4], [48, 4]], r"task\.segments: seq_len=48,pairs=4 is there twice"),
    ],
)
def test_what_cannot_be_is_refused(segments: list[list[int]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(segments=segments)


def test_values_repeat_by_default_and_not_where_that_is_asked_for() -> None:
    """As Zoology's generator draws them: each set of so many different values alike, in every segment."""
    sizes = {"vocab_size": 20, "pairs": 5, "seq_len": 32, "eval_samples": 400, "segments": [[64, 8]]}
    plain, apart = (make(repeat_values=repeat, **sizes) for repeat in (True, False))
    drawn_of: list[tuple[Split, int]] = [("val", 0), ("test", 0), ("test", 1)]
    for split, index in drawn_of:
        segments = [[task, *task.segments][index] for task in (plain, apart)]
        drawn = [each.samples(split)[0][:, 1 : 2 * each.pairs : 2] for each in segments]
        different = [np.array([len(set(row)) for row in values]) for values in drawn]
        assert (different[0] < segments[0].pairs).mean() > 0.5
        assert (different[1] == segments[1].pairs).all()
        counts = np.bincount(drawn[1].ravel(), minlength=20)[10:]
        assert abs(counts / counts.mean() - 1).max() < 0.25
    assert plain.settings != apart.settings
    assert "repeat_values" not in plain.settings  # what was learned from before there was a choice has its name


def test_the_ceiling_of_a_window_knows_that_values_do_not_repeat() -> None:
    sizes = {"vocab_size": 20, "pairs": 5, "seq_len": 32, "eval_samples": 400, "segments": []}
    plain, apart = (make(repeat_values=repeat, **sizes) for repeat in (True, False))
    assert plain.oracle["chance"] == apart.oracle["chance"] == 0.1
    for task, guess in ((plain, 1 / 10), (apart, 1 / 6)):  # of ten values four may be known
        seen = task.visible(8)
        assert 0 < seen < 1
        assert task.oracle["window_8"] == pytest.approx(seen + (1 - seen) * guess)
