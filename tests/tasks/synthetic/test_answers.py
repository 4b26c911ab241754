"""Each task's answers against a naive solver that reads the sequence as its description says."""

from __future__ import annotations

from collections.abc import Callable
from statistics import multimode
from typing import Any

import numpy as np
import pytest

from ablab.tasks.base import IGNORED
from ablab.tasks.synthetic.recall import Recall
from ablab.tasks.synthetic.sequences import BLANK, GO, Copying, Induction, Parity, SelectiveCopying, Sorting

SETTINGS: dict[str, Any] = {"seq_len": 24, "batch_size": 4, "seed": 1, "eval_samples": 200}
Solver = Callable[[list[int]], list[int]]


def shown(sequence: list[int]) -> list[int]:
    return sequence[: sequence.index(GO)]


def after_the_mark(sequence: list[int]) -> list[int]:
    return [sequence[sequence.index(GO) + 1]]


@pytest.mark.parametrize(
    ("task", "solve"),
    [
        (Copying(symbols=5, **SETTINGS), shown),
        (Sorting(symbols=5, **SETTINGS), lambda s: sorted(shown(s))),
        (SelectiveCopying(symbols=5, memorize=6, **SETTINGS), lambda s: [t for t in shown(s) if t != BLANK]),
        (Induction(symbols=5, **SETTINGS), after_the_mark),
        (Parity(**SETTINGS), lambda s: [sum(s) % 2]),
        (Parity(every_place=True, **SETTINGS), lambda s: [sum(s[: i + 1]) % 2 for i in range(len(s))]),
    ],
)
def test_answers(task: Copying, solve: Solver) -> None:
    for inputs, targets in zip(*task.samples("val"), strict=True):
        places = np.flatnonzero(targets != IGNORED)
        answers = targets[places].tolist()
        assert answers == solve(inputs.tolist())
        if task.vocab_size > 2 and len(places) > 1:  # every answer but the last is read before the next is given
            assert inputs[places[0]] == GO
            assert inputs[places[1:]].tolist() == answers[:-1]


def recall(**changes: Any) -> Recall:
    return Recall(**{"vocab_size": 32, "pairs": 4, "power_a": 0.5, **SETTINGS, **changes})


def test_recall_asks_for_the_value_of_every_key_once() -> None:
    for inputs, targets in zip(*recall().samples("val"), strict=True):
        pairs = dict(zip(inputs[0:8:2].tolist(), inputs[1:8:2].tolist(), strict=True))
        assert len(pairs) == 4
        assert max(pairs) < 16 <= min(pairs.values())
        asked = np.flatnonzero(targets != IGNORED)
        assert sorted(inputs[asked].tolist()) == sorted(pairs)
        assert targets[asked].tolist() == [pairs[key] for key in inputs[asked].tolist()]
        assert (asked >= 8).all()
        filler = np.delete(inputs[8:], asked - 8)
        assert filler.min() >= 16  # no filler looks like a query


def test_gaps_of_one_query_follow_the_power_law() -> None:
    """With one pair the gap is a plain draw, whose distribution is a closed form."""
    task = recall(pairs=1, power_a=0.3)
    _, targets = task.draw(np.random.default_rng(0), 20_000)
    slots = ((targets != IGNORED).argmax(axis=1) - 2) // 2
    weights = np.arange(1, 12) ** (0.3 - 1)
    expected = 20_000 * weights / weights.sum()
    counts = np.bincount(slots, minlength=11)
    assert ((counts - expected) ** 2 / expected).sum() < 29.6  # chi-square of 10 degrees of freedom, p = 0.001


def test_the_share_that_a_window_shows_against_counting_and_its_limits() -> None:
    task = recall()
    inputs, targets = task.samples("val")
    for window in (1, 4, 8, 13, 24):
        seen = [
            query - (2 * inputs[row, 0:8:2].tolist().index(inputs[row, query]) + 1) < window
            for row, query in zip(*(targets != IGNORED).nonzero(), strict=True)
        ]
        assert task.visible(window) == pytest.approx(np.mean(seen))
    assert task.visible(24) == 1
    assert task.visible(1) == 0
    share = task.visible(8)
    assert task.oracle["window_8"] == pytest.approx(share + (1 - share) / 16)


def test_the_best_blind_guess_at_a_sorted_sequence_beats_a_symbol_at_random() -> None:
    task = Sorting(symbols=8, **SETTINGS)
    assert 1 / 8 < task.oracle["chance"] < 0.8


def test_the_best_blind_guess_is_the_most_frequent_symbol_at_each_place() -> None:
    """Which of a few sorted symbols is the smallest at the first place, not the one in the middle."""
    task = Sorting(symbols=64, **{**SETTINGS, "seq_len": 8})
    val, test = (
        [[answer for answer in row if answer != IGNORED] for row in task.samples(split)[1].tolist()]
        for split in ("val", "test")
    )
    usual = [min(multimode(place)) for place in zip(*test, strict=True)]
    assert task.oracle["chance"] == np.mean([np.equal(row, usual) for row in val])
