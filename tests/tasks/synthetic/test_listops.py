"""ListOps against a recursive evaluation of its text, the closed form of its lengths, and its bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare

from ablab.tasks.synthetic import listops, trees
from ablab.tasks.synthetic.base import Sample, Split, belongs
from ablab.tasks.synthetic.listops import ListOps

SETTINGS = {"seq_len": 64, "max_depth": 5, "max_args": 6, "min_length": 8, "batch_size": 4, "seed": 1}
ARENA = {"seq_len": 2000, "max_depth": 10, "max_args": 10, "min_length": 500}
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Tree = int | tuple[str, list["Tree"]]


def make(**changes: Any) -> ListOps:
    return ListOps(**{**SETTINGS, "eval_samples": 100, **changes})


def texts(task: ListOps, sample: Sample) -> list[str]:
    return [task.decode(torch.from_numpy(row)) for row in sample[0]]


def parsed(words: Iterator[str]) -> Tree | None:
    """None is a closing bracket."""
    word = next(words)
    if word == "]":
        return None
    if not word.startswith("["):
        return int(word)
    parts: list[Tree] = []
    while (part := parsed(words)) is not None:
        parts.append(part)
    return word[1:], parts


def value(tree: Tree) -> int:
    if isinstance(tree, int):
        return tree
    name, arguments = tree[0], [value(argument) for argument in tree[1]]
    rules: dict[str, Callable[[list[int]], int]] = {
        "MIN": min,
        "MAX": max,
        "MED": lambda a: int(median(a)),
        "SM": lambda a: sum(a) % 10,
    }
    return rules[name](arguments)


def operators(tree: Tree, depth: int = 1) -> Iterator[tuple[int, int]]:
    """The depth and the number of arguments of each operator."""
    if not isinstance(tree, int):
        yield depth, len(tree[1])
        for argument in tree[1]:
            yield from operators(argument, depth + 1)


@pytest.mark.parametrize(("changes", "count"), [({}, 400), (ARENA, 8)])
def test_the_answer_is_the_value_of_the_text(changes: dict[str, Any], count: int) -> None:
    task = make(**changes)
    for split in SPLITS:
        sample = task.sample(split, 3, count)
        for text, answer in zip(texts(task, sample), sample[1], strict=True):
            words = iter(text.split())
            tree = parsed(words)
            assert tree is not None
            assert [value(tree)] == answer.tolist()
            assert not list(words)  # nothing behind the whole expression


def test_padding_is_behind_the_expression_and_lengths_depths_and_arguments_keep_their_bounds_and_reach_them() -> None:
    task = make(seq_len=20, min_length=5, max_depth=3, max_args=4)
    inputs, _ = sample = task.sample("train", 0, 3000)
    lengths = (inputs != 0).sum(axis=1)
    assert (inputs[np.arange(20) < lengths[:, None]] != 0).all()
    assert (lengths.min(), lengths.max()) == (6, 19)
    found = [each for text in texts(task, sample) for each in operators(parsed(iter(text.split())) or 0)]
    assert {depth for depth, _ in found} == {1, 2}  # and digits at depth 3
    assert {count for _, count in found} == {2, 3, 4}


def test_the_bounds_of_the_arena_hold_at_its_sizes() -> None:
    task = make(**ARENA)
    inputs, _ = sample = task.sample("train", 0, 100)
    lengths = (inputs != 0).sum(axis=1)
    assert lengths.min() > 500
    assert lengths.max() < 2000
    found = [each for text in texts(task, sample) for each in operators(parsed(iter(text.split())) or 0)]
    assert max(depth for depth, _ in found) == 9
    assert {count for _, count in found} == set(range(2, 11))


def lengths_in_theory(max_args: int, least: int, limit: int) -> np.ndarray:
    """The distribution of lengths of depth 3, given that they lie between the bounds, by convolution."""
    argument = np.zeros(limit)
    argument[1] = 3 / 4
    argument[4 : 3 + max_args] += 1 / 4 / (max_args - 1)  # an operator over digits
    whole, some = np.zeros(limit), np.zeros(limit)
    some[2] = 1
    for count in range(1, max_args + 1):
        some = np.convolve(some, argument)[:limit]
        whole += some * (count >= 2)
    whole[: least + 1] = 0
    share: NDArray[np.float64] = whole / whole.sum()
    return share


@pytest.mark.parametrize("split", SPLITS)
def test_lengths_follow_the_closed_form_in_every_split(split: Split) -> None:
    """To fill a shape until it falls into the split must not favour any shape."""
    task = make(seq_len=16, min_length=4, max_depth=3, max_args=4)
    inputs, _ = task.sample(split, 0, 20_000)
    expected = lengths_in_theory(4, 4, 16)
    counts = np.bincount((inputs != 0).sum(axis=1), minlength=16)
    assert counts[expected == 0].sum() == 0
    assert chisquare(counts[expected > 0], 20_000 * expected[expected > 0]).pvalue > 0.001


def test_digits_and_operators_are_drawn_evenly() -> None:
    inputs, _ = make().sample("train", 0, 4000)
    counts = np.bincount(inputs.ravel(), minlength=16)
    assert chisquare(counts[trees.ZERO : trees.OPERATOR]).pvalue > 0.001
    assert chisquare(counts[trees.OPERATOR : trees.CLOSE]).pvalue > 0.001


def test_an_operator_of_many_and_of_one() -> None:
    counts = np.array([1, 4, 3, 2, 5])
    arguments = np.array([7, 1, 9, 4, 4, 3, 3, 8, 0, 9, 9, 9, 9, 1, 9])
    chosen = [trees.apply(np.full(5, operator), arguments, counts).tolist() for operator in range(4)]
    assert chosen == [[7, 1, 3, 0, 1], [7, 9, 8, 9, 9], [7, 4, 3, 4, 9], [7, 8, 4, 9, 7]]


def test_splits_share_no_sample() -> None:
    """The shortest expressions: there are so few that independent draws would meet."""
    task = make(seq_len=6, min_length=3, max_depth=2, max_args=3, eval_samples=30)
    drawn = {split: task.sample(split, 0, 300)[0] for split in SPLITS}
    assert all(belongs(inputs, split).all() for split, inputs in drawn.items())
    rows = {split: {tuple(row) for row in inputs.tolist()} for split, inputs in drawn.items()}
    assert not rows["train"] & rows["val"] | rows["train"] & rows["test"] | rows["val"] & rows["test"]
    assert min(map(len, rows.values())) > 20


def test_samples_depend_on_seed_split_and_index_alone() -> None:
    task, again, other = make(), make(), make(seed=2)
    first = task.sample("train", 0, 8)[0]
    assert not np.array_equal(first, task.sample("train", 1, 8)[0])
    assert np.array_equal(first, again.sample("train", 0, 8)[0])
    assert not np.array_equal(first, other.sample("train", 0, 8)[0])
    assert not np.array_equal(task.samples("val")[0], other.samples("val")[0])


def test_evaluation_samples_are_drawn_once_and_then_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABLAB_CACHE", str(tmp_path))
    drawn: Counter[str] = Counter()
    draw = trees.draw_shapes

    def counted(*arguments: Any, **bounds: Any) -> trees.Shapes:
        drawn["shapes"] += 1
        return draw(*arguments, **bounds)

    monkeypatch.setattr(listops, "draw_shapes", counted)
    first = make()
    first.setup()
    assert drawn["shapes"] >= 2
    drawn.clear()
    second = make()
    for split in ("val", "test"):
        for kept, made in zip(second.samples(split), first.samples(split), strict=True):
            assert np.array_equal(kept, made)
            assert kept.dtype == made.dtype == np.int64
    assert not drawn
    for changes in ({"seed": 2}, {"max_args": 5}, {"min_length": 9}, {"eval_samples": 99}, {"seq_len": 65}):
        make(**changes).setup()
        assert drawn["shapes"], changes
        drawn.clear()


def test_chance_is_the_share_of_the_answer_that_is_most_frequent_elsewhere() -> None:
    task = make(eval_samples=300)
    usual = Counter(task.samples("test")[1].ravel().tolist()).most_common(1)[0][0]
    own = task.samples("val")[1].ravel().tolist()
    assert task.oracle == {"chance": own.count(usual) / 300, "ceiling": 1.0}
    assert 0.05 < task.oracle["chance"] < 0.3


def test_text_becomes_tokens_and_text_again() -> None:
    task = make()
    text = "[SM 1 [MED 0 9 ] 4 [MAX 2 3 ] [MIN 8 8 ] ]"
    assert task.decode(torch.cat([task.encode(text), torch.zeros(3, dtype=torch.long)])) == text
    with pytest.raises(ValueError, match=r"'\[SUM' is no token"):
        task.encode("[SUM 1 2 ]")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_depth": 1}, r"task\.max_depth=1"),
        ({"max_args": 1}, r"task\.max_args=1"),
        ({"min_length": 0}, r"task\.min_length=0: must be at least 1"),
        ({"min_length": 63}, r"task\.min_length=63: .*task\.seq_len=64"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**changes)


def test_bounds_that_no_expression_keeps_are_said_to_be() -> None:
    with pytest.raises(ValueError, match=r"next to no expression is longer than task\.min_length=30 and shorter"):
        make(max_depth=2, max_args=4, min_length=30).setup()
