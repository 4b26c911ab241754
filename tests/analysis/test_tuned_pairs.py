"""What tuning says of a comparison: its settings and budgets, and the effect one step of the grid away."""

from __future__ import annotations

import json

import pytest
from said import notes_of
from synthetic import runs_of
from tuned import Points, told, tuned_study

from ablab.analysis.comparison import compare
from ablab.analysis.tuning_notes import OneStepAway
from ablab.results.record import Record

NOISE = [0.000, 0.002, 0.001, -0.001, -0.002]
BASE: Points = {1e-3: [1.20, 1.22], 3e-3: [1.00, 1.02], 1e-2: [1.10, 1.12]}


def gain(by: float) -> list[float]:
    return [each - by for each in NOISE]


def said(records: list[Record]) -> list[str]:
    (item,) = compare(runs_of(records)).items
    return list(notes_of(item))


def away(records: list[Record]) -> OneStepAway:
    (item,) = compare(runs_of(records)).items
    (found,) = [note for note in item.notes if isinstance(note, OneStepAway)]
    return found


def test_the_effect_a_step_away_is_that_of_the_tuning_runs() -> None:
    own: Points = {1e-3: [1.30, 1.34], 3e-3: [0.90, 0.92], 1e-2: [1.05, 1.07]}
    records = tuned_study(gain(0.1), told(BASE, 3e-3), told(own, 3e-3))
    found = away(records)
    assert found.here == pytest.approx(-0.1)
    assert [each.effect for each in found.away] == pytest.approx([0.11, -0.05])
    assert [(each.own, each.baseline) for each in found.away] == [(1e-3, 1e-3), (1e-2, 1e-2)]
    assert said(records)[-1] == (
        "ONE STEP AWAY  by the tuning runs (2 seeds): -0.100 at the rate of each, +0.110 one step lower (0.001 against "
        "0.001), -0.050 one step higher (0.01 against 0.01). THE SIGN CHANGES one step lower."
    )


def test_each_side_steps_from_its_own_rate_and_what_is_not_there_is_said() -> None:
    own: Points = {1e-3: [1.30, 1.34], 3e-3: [0.92, 0.94], 1e-2: [0.90, 0.92]}
    found = away(tuned_study(gain(0.1), told(BASE, 3e-3), told(own, 1e-2)))
    lower, higher = found.away
    assert (lower.own, lower.baseline) == (3e-3, 1e-3)
    assert lower.effect == pytest.approx(0.93 - 1.21)
    assert (higher.effect, higher.why) == (None, "not tried")
    own = {1e-3: [1.30, 1.34], 3e-3: [0.90, 0.92], 1e-2: [None, 0.92]}
    assert away(tuned_study(gain(0.1), told(BASE, 3e-3), told(own, 3e-3))).away[1].why == "did not end well"


def test_an_unresolved_effect_has_no_sign_to_change() -> None:
    own: Points = {1e-3: [1.30, 1.34], 3e-3: [0.90, 0.92], 1e-2: [1.05, 1.07]}
    assert not any("SIGN" in note for note in said(tuned_study(NOISE, told(BASE, 3e-3), told(own, 3e-3))))


def test_where_one_side_alone_was_tuned_there_is_nothing_to_pair() -> None:
    notes = said(tuned_study(gain(0.1), None, told(BASE, 3e-3)))
    assert len(notes) == 1
    assert notes[0].startswith("Only this variant had its learning rate tuned. The interval holds what choosing adds: ")


def test_who_was_tried_at_more_points_is_said_and_why() -> None:
    rates = (1e-3, 3e-3)
    base: Points = {(("optimizer.lr", rate),): [1.0 + rate, 1.1] for rate in rates}
    both = [(("optimizer.lr", rate), ("attention.window", window)) for rate in rates for window in (8, 16)]
    own: Points = {key: [1.0 - place / 100, 1.1 - place / 100] for place, key in enumerate(both)}
    records = tuned_study(gain(0.1), told(base, 1e-3, lacking=["attention.window"]), told(own, both[3]))
    first, *rest = said(records)
    for part in (
        "SETTINGS  optimizer.lr=0.003,attention.window=16 against optimizer.lr=0.001, tuned on the same grid",
        "; attention.window=16 is the largest of the grid: widen tune.attention.window",
        "; 0.003 is the largest of the grid: widen tune.lr",
        "; NOT THE SAME BUDGET OF TUNING: 4 against 2 points, since the baseline has no attention.window. ",
    ):
        assert part in first
    of_window = next(note for note in rest if "attention.window" in note)
    assert "one step lower (8)" in of_window


def test_an_extended_grid_is_said_to_be_one() -> None:
    extended = {"optimizer.lr": [1, 0]}
    (first, _) = said(tuned_study(gain(0.1), told(BASE, 3e-3, extended=extended), told(BASE, 3e-3, extended=extended)))
    assert "tune.lr was extended by 1 step below for all variants." in first


def test_json_has_what_choosing_adds_and_the_steps() -> None:
    from ablab.report.context import ReportContext
    from ablab.report.formats.machine import document

    runs = runs_of(tuned_study(gain(0.1), told(BASE, 3e-3), told(BASE, 3e-3)))
    (item,) = json.loads(json.dumps(document(ReportContext(runs, compare(runs)))))["comparisons"]
    assert item["standard_error"] >= item["error_of_choice"] >= 0
    assert [each["step"] for each in item["one_step_away"][0]["away"]] == [-1, 1]
