"""The needle against a reader that looks for the marks, and its ceilings against counting."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from ablab.errors import UserError
from ablab.tasks.base import IGNORED
from ablab.tasks.corpus import read_stdlib, split_by_name
from ablab.tasks.synthetic.base import Sample, Split
from ablab.tasks.synthetic.needle import FILLER, MARK, SYMBOL, Needle

MAX_BYTES = 300_000
SETTINGS = {
    "lengths": [40, 24],
    "depths": [0, 0.5, 1],
    "symbols": 6,
    "value_length": 3,
    "max_bytes": MAX_BYTES,
    "batch_size": 4,
    "seed": 1,
    "eval_samples": 20,
}
OVERHEAD = 9  # mark, key and three symbols; mark and key; two symbols of the answer
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def make(**changes: Any) -> Needle:
    task = Needle(**{**SETTINGS, **changes})
    task.setup()
    return task


@cache
def library(split: str) -> bytes:
    return b"".join(file.data for file in split_by_name(read_stdlib(MAX_BYTES), 0.1, 0.1)[split])


def read(inputs: list[int], targets: list[int], value_length: int = 3) -> tuple[int, int, bytes]:
    """Check one sample; its length, where its fact begins, and its text."""
    length = inputs.index(FILLER) if FILLER in inputs else len(inputs)
    assert set(inputs[length:]) <= {FILLER}
    fact, question = (place for place, token in enumerate(inputs) if token == MARK)
    key, *value = inputs[fact + 1 : fact + 2 + value_length]
    assert inputs[question:length] == [MARK, key, *value[:-1]]
    asked = [place for place, target in enumerate(targets) if target != IGNORED]
    assert asked == list(range(question + 1, length))
    assert [targets[place] for place in asked] == value
    assert SYMBOL <= min(key, *value) <= max(key, *value) < SYMBOL + 6
    text = inputs[:fact] + inputs[fact + 2 + value_length : question]
    return length, fact, bytes(text)


@pytest.mark.parametrize("split", ["val", "test"])
def test_each_subset_has_its_length_and_depth_and_text_of_its_split(split: Split) -> None:
    task = make()
    names = task.subsets(split)
    assert names == [f"length={length},depth={depth}" for length in (40, 24) for depth in ("0", "0.5", "1")]
    subsets = task.evaluation(split)
    assert len(subsets) == len(names)
    for name, (fetch, count) in zip(names, subsets, strict=True):
        assert count == 20
        wanted = {key: float(number) for key, number in (pair.split("=") for pair in name.split(","))}
        tensors: Any = fetch(np.arange(20))
        for inputs, targets in zip(*(tensor.tolist() for tensor in tensors), strict=True):
            length, fact, text = read(inputs, targets)
            assert length == wanted["length"]
            assert fact == pytest.approx(wanted["depth"] * (length - OVERHEAD), abs=0.5)
            assert text in library(split)


def test_training_draws_every_length_and_depth_evenly_from_its_own_text() -> None:
    samples = make().sample("train", 0, 3000)
    found = [read(inputs, targets) for inputs, targets in zip(*(part.tolist() for part in samples), strict=True)]
    lengths, facts = np.array([(length, fact) for length, fact, _ in found]).T
    assert 0.45 < (lengths == 40).mean() < 0.55
    for length in (24, 40):
        depths = facts[lengths == length] / (length - OVERHEAD)
        assert (depths.min(), depths.max()) == (0, 1)
        assert np.histogram(depths, bins=5, range=(0, 1))[0].min() > 100  # in whole tokens: bins are uneven
    assert all(text in library("train") for _, _, text in found[:300])


@pytest.mark.parametrize("value_length", [1, 2])
def test_short_values(value_length: int) -> None:
    for inputs, targets in zip(
        *(part.tolist() for part in make(value_length=value_length).samples("val")), strict=True
    ):
        read(inputs, targets, value_length)


def test_keys_and_symbols_are_drawn_evenly_and_apart() -> None:
    task = make(lengths=[24], depths=[0])
    inputs, _ = task.sample("train", 0, 6000)
    facts = (inputs == MARK).argmax(axis=1)
    fact = inputs[np.arange(6000)[:, None], facts[:, None] + 1 + np.arange(4)] - SYMBOL
    for left in range(4):
        for right in range(left):
            counts = np.histogram2d(fact[:, left], fact[:, right], bins=6)[0]
            assert ((counts - 6000 / 36) ** 2 / (6000 / 36)).sum() < 66.7  # chi-square, 35 degrees, p = 0.001


def test_samples_depend_on_seed_split_and_index_alone() -> None:
    def drawn(split: Split, index: int, **changes: Any) -> Sample:
        return make(**changes).sample(split, index, 5)

    assert np.array_equal(drawn("train", 2)[0], drawn("train", 2)[0])
    assert not np.array_equal(drawn("train", 2)[0], drawn("train", 1)[0])
    assert not np.array_equal(drawn("train", 2)[0], drawn("train", 2, seed=2)[0])
    assert not np.array_equal(drawn("train", 2)[1], drawn("val", 2)[1])
    assert not np.array_equal(make().samples("val")[1], make(seed=2).samples("val")[1])


def test_windows_reach_what_counting_says_and_no_more() -> None:
    task = make()
    for window in (2, 4, 8, 16, 24, 40):
        near = []
        for fetch, _ in task.evaluation("val"):
            tensors: Any = fetch(np.arange(20))
            inputs, targets = (tensor.numpy() for tensor in tensors)
            facts = (inputs == MARK).argmax(axis=1)
            asked = (targets != IGNORED).argmax(axis=1)
            near += [(asked + n) - (facts + 2 + n) < window for n in range(3)]
        assert task.visible(window) == pytest.approx(np.mean(near))
    assert task.visible(3) == 0
    assert task.visible(40) == 1
    assert task.oracle["chance"] == 1 / 6
    assert task.oracle["window_8"] == pytest.approx(1 / 3 + 2 / 3 / 6)  # depth 1 of either length
    assert list(task.oracle) == ["chance", "ceiling", "window_2", "window_4", "window_8", "window_16", "window_32"]


def test_metrics_are_a_grid_beside_the_whole() -> None:
    task = make(lengths=[24], depths=[0, 0.25])
    totals = {
        name: {"nats": 2.0, "correct": right, "answers": 4.0, "exact": 0.0, "sequences": 2.0}
        for name, right in zip(task.subsets("val"), (1.0, 4.0), strict=True)
    }
    metrics = task.evaluation_metrics(totals)
    assert metrics["accuracy/length=24,depth=0"] == 0.25
    assert metrics["accuracy/length=24,depth=0.25"] == 1
    assert metrics["accuracy"] == 0.625


def test_the_longest_length_is_the_models() -> None:
    task = make()
    assert (task.seq_len, task.max_length, task.vocab_size) == (40, 40, SYMBOL + 6)
    inputs, targets = task.samples("val")
    assert inputs.shape == targets.shape == (6 * 20, 40)


def test_the_corpus_names_the_text_and_the_settings() -> None:
    assert make().corpus == make(seed=2).corpus
    assert make().corpus.sha256 != make(depths=[0]).corpus.sha256
    assert make().corpus.sha256 != make(max_bytes=400_000).corpus.sha256


def test_a_library_that_is_too_short_is_refused() -> None:
    with pytest.raises(UserError, match=r"bytes in the (val|test) split, task\.lengths want 200000"):
        make(lengths=[200_000], eval_samples=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lengths": []}, r"task\.lengths=\[\]"),
        ({"lengths": [24, 9]}, r"task\.lengths=\[24, 9\]: each must have room for text, 10 tokens or more"),
        ({"lengths": [24, 24]}, r"task\.lengths=\[24, 24\]: each must be there once"),
        ({"depths": []}, r"task\.depths=\[\]"),
        ({"depths": [0, 1.5]}, r"task\.depths=\[0, 1\.5\]: give one or more shares from 0 to 1"),
        ({"depths": [0.5, 0.50]}, r"task\.depths=.*each must be there once"),
        ({"symbols": 1}, r"task\.symbols=1"),
        ({"value_length": 0}, r"task\.value_length=0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**changes)
