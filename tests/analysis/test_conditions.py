"""Conditions beside a verdict: training that does not pay in time, and fusions that do not follow their input."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from said import notes_of
from synthetic import cost, runs_of, study

from ablab.analysis.comparison import Comparison, compare
from ablab.analysis.costs import EQUAL_SPEED
from ablab.results.record import Record

LOSSES = [1.00, 1.02, 0.97, 1.05, 0.99]


def timed(ratios: list[float | None], effect: float = 0.1, machine: str = "cpu") -> list[Record]:
    """A baseline at 800 tokens a second, and a window at these shares of it."""
    losses = LOSSES[: len(ratios)]
    shifted = [loss + effect + 0.001 * seed for seed, loss in enumerate(losses)]
    records = study({"full": losses, "windowed": shifted}, axis="attention")
    for index, item in enumerate(records):
        ratio = ([1.0] * len(losses) + ratios)[index]
        item.cost = cost(item, tokens_per_second=None if ratio is None else 800 * ratio)
        item.config = {**item.config, "task": {"seq_len": 128}}
        item.machine = {"device": machine if index >= len(losses) else "cpu", "platform": f"host {index}"}
    return records


def item_of(records: list[Record]) -> Comparison:
    (item,) = compare(runs_of(records)).items
    return item


def said(records: list[Record]) -> list[str]:
    return [note for note in notes_of(item_of(records)) if note.startswith("DOES NOT PAY")]


@pytest.mark.parametrize(
    ("match", "seconds", "pays"), [("time", 8.2, True), ("time", 9.0, False), ("flops", 8.0, False)]
)
def test_what_had_a_budget_of_time_and_kept_it_is_at_equal_time(match: str, seconds: float, pays: bool) -> None:
    records = timed([0.5, 0.5, 0.5], effect=-0.1)
    for item in records:
        item.budget = {"match": match, "changed": {}}
        if item.axes["attention"] == "windowed":
            item.cost = cost(item, train_time_s=seconds)
    assert (said(records) == []) == pays


def test_the_line_has_the_median_the_range_and_the_length() -> None:
    assert said(timed([0.65, 0.61, 0.70, 0.66, 0.62])) == [
        "DOES NOT PAY IN TIME  windowed trains at 0.65 times the speed of the baseline at seq_len=128 "
        "(0.61 to 0.70 over 5 seeds)."
    ]


def test_a_gain_was_bought_with_time() -> None:
    (line,) = said(timed([0.65, 0.61, 0.70], effect=-0.4))
    assert line.endswith("(0.61 to 0.70 over 3 seeds); the gain is not at equal time.")


def test_a_crawling_variant_is_not_shown_as_standing_still() -> None:
    assert "at 0.0021 times the speed" in said(timed([0.0021, 0.0020, 0.0022]))[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.3, 1.7), min_size=1, max_size=5))
def test_every_seed_must_agree(ratios: list[float]) -> None:
    ratios = [round(ratio, 3) for ratio in ratios]
    agreed = len(ratios) >= 3 and all(ratio < 1 - EQUAL_SPEED for ratio in ratios)
    assert len(said(timed(list(ratios)))) == agreed


@pytest.mark.parametrize("ratios", [[0.6, 0.6, 0.951], [0.6, 0.6], [1.5, 1.6, 1.7]])
def test_nothing_is_claimed_from_noise_few_seeds_or_a_faster_variant(ratios: list[float | None]) -> None:
    assert said(timed(ratios)) == []


def test_a_seed_that_was_not_timed_does_not_count() -> None:
    assert "over 3 seeds" in said(timed([0.6, None, 0.62, 0.64]))[0]
    assert said(timed([0.6, None, 0.62])) == []


def test_a_seed_without_a_pair_does_not_count() -> None:
    records = timed([0.6, 0.61, 0.62, 5.0])
    records[3].metrics["val_loss"] = math.nan  # the baseline's
    assert "(0.60 to 0.62 over 3 seeds)" in said(records)[0]


def test_a_length_that_is_not_known_is_not_named() -> None:
    records = timed([0.6] * 3)
    for item in records:
        item.config = {"seed": item.seed}
    assert "the baseline (0.60 to 0.60 over" in said(records)[0]


def test_other_machines_are_said_and_their_speeds_not_compared() -> None:
    notes = notes_of(item_of(timed([0.6] * 3, machine="NVIDIA T4")))
    assert notes == ("Not the same machine, so speeds are not compared: device NVIDIA T4 against cpu.",)


THREE = [1.00, 1.02, 0.97]


@pytest.mark.parametrize(
    ("spread", "distance", "said"),
    [
        ([1e-4, 3e-4, 2e-4], 0.1, "the streams differ from their mean by 0.0003, less than 0.001, in every run; as "
         "trained, they are one stream."),
        ([0.1] * 3, 5e-4, "the mix of the streams differs from the identity by 0.0005, less than 0.001, in every run; "
         "as trained, each is led past the layers by itself."),
        ([1e-4, 0.2, 1e-4], 0.1, None),
    ],
)  # fmt: skip
def test_streams_that_are_never_mixed_are_said_to_be(spread: list[float], distance: float, said: str | None) -> None:
    records = study({"plain": THREE, "hyper": [loss - 0.1 for loss in THREE]}, axis="residual")
    for record, measured in zip(records[3:], spread, strict=True):
        record.mechanism = {"residual/stream_spread": measured, "residual/mix_distance": distance}
    (item,) = compare(runs_of(records)).items
    notes = [note for note in notes_of(item) if note.startswith("UNMIXED")]
    assert notes == ([f"UNMIXED  hyper: {said}"] if said else [])


def independent_notes(variations: list[float | None]) -> list[str]:
    records = study({"last": THREE, "adaptive": [loss - 0.1 for loss in THREE]}, axis="layer_fusion")
    for record, variation in zip(records, [None, None, None, *variations], strict=True):
        if variation is not None:
            record.mechanism = {"layer_fusion/weight_variation": variation}
    (item,) = compare(runs_of(records)).items
    return [note for note in notes_of(item) if note.startswith("INPUT-INDEPENDENT")]


def test_weights_that_never_vary_are_said_to() -> None:
    assert independent_notes([0.0002, 0.0004, 0.0001]) == [
        "INPUT-INDEPENDENT  adaptive: the weights of the layers vary by 0.0004 between inputs, less than 0.001; as "
        "trained, this is a static fusion."
    ]


@pytest.mark.parametrize("variations", [[0.0002, 0.02, 0.0001], [None, None, None]])
def test_one_run_in_which_they_vary_is_enough_and_no_figure_is_no_finding(variations: list[float | None]) -> None:
    assert independent_notes(variations) == []


GRID = (0.03, 0.1, 0.3, 1.0)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ((0.3, 0.1), "AT DIFFERENT RATES  0.1 against 0.3, tuned on the same grid."),
        ((0.3, 0.3), "Both at the learning rate 0.3, tuned on the same grid."),
        (
            (1.0, 0.1),
            "AT DIFFERENT RATES  0.1 against 1, tuned on the same grid; 1 is the largest of the grid: widen tune.lr.",
        ),
        (
            (0.03, 1.0),
            "AT DIFFERENT RATES  1 against 0.03, tuned on the same grid; 0.03 is the smallest of the grid: widen "
            "tune.lr; 1 is the largest of the grid: widen tune.lr.",
        ),
        (
            (1.0, 1.0),
            "Both at the learning rate 1, tuned on the same grid; 1 is the largest of the grid: widen tune.lr.",
        ),
        ((None, 0.1), "Only this variant had its learning rate tuned."),
        ((0.1, None), "Only the baseline had its learning rate tuned."),
    ],
)
def test_the_rates_that_were_tuned_are_said_and_whether_one_is_at_the_end_of_the_grid(
    chosen: tuple[float | None, float | None], said: str
) -> None:
    records = study({"full": LOSSES, "windowed": [loss + 0.01 * loss**3 for loss in LOSSES]}, axis="attention")
    said += " What choosing adds to the noise is not in the interval: no tuning run is kept."  # of earlier versions
    for index, item in enumerate(records):
        rate = chosen[index // len(LOSSES)]
        item.tuning = None if rate is None else {"chosen": rate, "tried": [[each, 1.0] for each in GRID]}
    assert notes_of(item_of(records)) == (said,)


def test_rates_that_were_not_tuned_together_are_all_said() -> None:
    records = study({"full": LOSSES, "windowed": [loss + 0.01 * loss**3 for loss in LOSSES]}, axis="attention")
    for index, item in enumerate(records):
        grid = GRID if index else (*GRID, 3.0)
        item.tuning = {"chosen": 0.3 if index % 2 else 0.1, "tried": [[each, 1.0] for each in grid]}
    (said,) = notes_of(item_of(records))
    assert said.startswith("AT DIFFERENT RATES  0.1 and 0.3 against 0.1 and 0.3, tuned on different grids. ")
