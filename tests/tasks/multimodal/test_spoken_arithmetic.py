"""Three modalities, each needed: what is asked, what can be reached without some, and that splits stay apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ablab.config import conf_folder
from ablab.errors import UserError
from ablab.tasks.base import IGNORED
from ablab.tasks.multimodal.instructions import (
    MODALITIES,
    NO_WORD,
    OPERATIONS,
    Phrases,
    best_accuracy,
    modality_subsets,
    results,
    subset_name,
)
from ablab.tasks.multimodal.samples import dropped
from ablab.tasks.multimodal.spoken_arithmetic import ANSWERS, SpokenArithmetic


def make(**changes: Any) -> SpokenArithmetic:
    node = OmegaConf.load(conf_folder() / "task" / "spoken_arithmetic.yaml")
    task: SpokenArithmetic = instantiate(node, **({"seed": 5, "eval_samples": 60} | changes), _convert_="all")
    return task


def make_ready() -> SpokenArithmetic:
    task = make()
    task.setup()
    return task


class Spelling:
    """Sources that say which digit they were asked for, in place of images and sounds."""

    def __init__(self, shape: tuple[int, int], sound: bool) -> None:
        self.shape, self.sound = shape, sound

    def draw(self, generator: np.random.Generator, digits: Any, split: str) -> Any:
        features = np.ones((len(digits), *self.shape), dtype=np.float32) * digits[:, None, None]
        return (features, np.zeros((len(digits), self.shape[0]), dtype=bool)) if self.sound else features


def test_answers_are_what_the_words_ask_of_the_two_digits() -> None:
    task = make()
    task.setup()
    task._writing = Spelling((16, 4), sound=False)  # type: ignore[assignment]
    task._sounds = Spelling((7, 258), sound=True)  # type: ignore[assignment]
    task._scale = dict.fromkeys(MODALITIES, lambda values: values)  # type: ignore[arg-type]
    samples = task.draw(np.random.default_rng(0), "train", 300)
    words = {tuple(ids[ids > 0]): name for name, each in zip(OPERATIONS, task.phrases.ids, strict=True) for ids in each}
    asked = [words[tuple(text[text != NO_WORD])] for text in samples.text]
    rules: dict[str, Callable[[int, int], int]] = {
        "add": lambda a, b: a + b,
        "subtract": lambda a, b: a - b,
        "larger": max,
    }
    for row, name in enumerate(asked):
        written, spoken = int(samples.image[row, 0, 0]), int(samples.audio[row, 0, 0])
        assert ANSWERS[samples.answers[row, 0]] == rules[name](written, spoken)
    assert set(asked) == set(OPERATIONS)
    assert len({tuple(text) for text in samples.text}) == task.phrases.shape[0] * task.phrases.shape[1]


def test_every_phrase_is_another_and_ids_are_words() -> None:
    phrases = Phrases.of_operations()
    flat = phrases.ids.reshape(-1, phrases.longest)
    assert len(np.unique(flat, axis=0)) == len(flat) == sum(map(len, OPERATIONS.values()))
    assert sorted(np.unique(flat)) == list(range(phrases.vocab_size))


@pytest.mark.parametrize("subset", [(), *modality_subsets()])
def test_what_a_subset_can_reach_against_counting(subset: tuple[str, ...]) -> None:
    """Whoever knows the distribution and sees the subset, guessing the likeliest answer, over many draws."""
    generator = np.random.default_rng(0)
    written, spoken = generator.integers(0, 10, (2, 2, 200_000))
    operation = generator.integers(0, 3, (2, 200_000))
    answers = np.take_along_axis(results(written, spoken), operation[None], axis=0)[0] + 9
    seen = np.zeros((2, 200_000), dtype=np.int64)
    for name, values in zip(MODALITIES, (written, spoken, operation), strict=True):
        seen = seen * 10 + (values if name in subset else 0)
    votes = np.zeros((seen.max() + 1, 28))
    np.add.at(votes, (seen[0], answers[0]), 1)
    assert (votes[seen[1]].argmax(axis=1) == answers[1]).mean() == pytest.approx(best_accuracy(subset), abs=0.006)


def test_known_values() -> None:
    """By hand: of 10 x 10 digits, 10 sums are 9, 10 differences 0, and 19 times the larger one is 9."""
    known = make().oracle
    assert known["with=text"] == pytest.approx((10 + 10 + 19) / 300)
    assert known["ceiling"] == 1
    assert known["chance"] == pytest.approx((10 + 1 + 19) / 300)  # always 9
    assert known.pop("with=image+audio+text") == 1
    assert all(value < 0.5 for name, value in known.items() if name.startswith("with="))


def test_samples_depend_on_seed_split_and_index_alone() -> None:
    task, other = make(modality_dropout=0.3), make(modality_dropout=0.3)
    for each in (task, other):
        each.setup()
    forwards = [task.train_batches(0, 1)[index] for index in range(3)]
    for index in (2, 0, 1):
        inputs, targets = other.train_batches(0, 1)[index]
        assert torch.equal(targets, forwards[index][1])
        assert all(torch.equal(inputs[name], forwards[index][0][name]) for name in inputs)  # type: ignore[index]
    halves = [task.train_batches(rank, 2)[1] for rank in range(2)]
    for name, whole in forwards[1][0].items():  # type: ignore[union-attr]
        assert torch.equal(torch.cat([half[0][name] for half in halves]), whole)  # type: ignore[index]
    assert not torch.equal(forwards[0][1], forwards[1][1])


def test_dropping_modalities_leaves_the_rest_as_it_was() -> None:
    whole, partly = make(), make(modality_dropout=0.5)
    for task in (whole, partly):
        task.setup()
    (all_of_it, answers), (some, same) = (task.train_batches(0, 1)[4] for task in (whole, partly))
    assert torch.equal(answers, same)
    assert all(torch.equal(all_of_it[name], some[name]) for name in MODALITIES)  # type: ignore[index]
    assert (some["padding"] & ~all_of_it["padding"]).any()  # type: ignore[index]
    assert not some["padding"].all(1).any()  # type: ignore[index]


def test_each_modality_is_dropped_as_often_as_asked_and_never_all() -> None:
    left_out = dropped(np.random.default_rng(0), 100_000, 0.4)
    assert not left_out.all(axis=1).any()
    # Of the 0.4^3 that would lose all, a third keeps this one.
    np.testing.assert_allclose(left_out.mean(axis=0), 0.4 - 0.4**3 / 3, atol=0.006)


def test_nothing_is_left_is_refused() -> None:
    task = make()
    task.setup()
    samples = task.draw(np.random.default_rng(0), "train", 2)
    with pytest.raises(ValueError, match="without any modality"):
        samples.without(np.ones((2, 3), dtype=bool))


def test_test_samples_are_evaluated_with_each_subset_of_modalities() -> None:
    task = make(eval_samples=10, eval_batch_size=4)
    assert task.subsets("val") == [""]
    subsets = task.subsets("test")
    assert subsets == [subset_name(subset) for subset in modality_subsets()]
    assert len(subsets) == 7
    seen: dict[str, list[int]] = {subset: [] for subset in subsets}
    lengths = [16, 7, 11]
    for inputs, targets, subset in task.test_dataloader():
        seen[subsets[subset]] += targets.flatten().tolist()
        for name, padding in zip(MODALITIES, inputs["padding"].split(lengths, dim=1), strict=True):
            assert padding.all(1).tolist() == [name not in subsets[subset].removeprefix("with=").split("+")] * len(
                targets
            )
    assert len({tuple(answers) for answers in seen.values()}) == 1
    assert len(seen[subsets[0]]) == 10
    assert IGNORED not in seen[subsets[0]]
    totals = {subset: {"nats": 1.0, "correct": float(i), "answers": 10.0} for i, subset in enumerate(subsets)}
    metrics = task.evaluation_metrics(totals)
    assert metrics["accuracy"] == 0  # of the first subset, which has all modalities
    assert metrics["accuracy/with=text"] == 0.6


def test_the_scale_is_of_the_training_split_and_travels_in_the_checkpoint() -> None:
    task = make()
    state = task.state_dict()
    image = task._writing.training
    assert state["scale"]["image"]["mean"].item() == pytest.approx(image.mean(), rel=1e-5)
    assert state["scale"]["image"]["deviation"].item() == pytest.approx(image.std(), rel=1e-5)
    assert state["scale"]["audio"]["mean"].shape == (258,)
    inputs, _ = task.train_batches(0, 1)[0]
    assert abs(inputs["image"].mean()) < 0.2  # type: ignore[index]
    assert abs(inputs["audio"].mean()) < 0.2  # type: ignore[index]
    task.load_state_dict(state)  # its own
    resumed = make()
    state["scale"]["image"]["mean"] += 1  # as if trained on other images
    resumed.load_state_dict(state)
    assert resumed.modalities == task.modalities  # known without the data
    resumed.setup()
    moved, _ = resumed.train_batches(0, 1)[0]
    deviation = state["scale"]["image"]["deviation"].item()
    torch.testing.assert_close(moved["image"], inputs["image"] - 1 / deviation)  # type: ignore[index]
    with pytest.raises(UserError, match="are not those at hand"):  # its samples have another scale
        make_ready().load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modality_dropout": 1.0}, r"task\.modality_dropout=1\.0"),
        ({"patches": 0}, r"task\.patches=0"),
        ({"val_fraction": 0.0}, r"task\.val_fraction=0\.0"),
        ({"eval_samples": 0}, r"task\.eval_samples must be at least 1"),
        ({"seconds": 0.001}, r"task\.seconds=0\.001"),
        ({"batch_size": 0}, r"task\.batch_size must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        make(**changes)
