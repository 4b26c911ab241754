"""Placebos stand beside what is compared: they take no claim's share, set the floor, and are counted."""

import dataclasses

import numpy as np
import pytest
from synthetic import record, runs_of, study

from ablab.analysis.comparison import Comparisons, compare
from ablab.analysis.interactions import interactions
from ablab.analysis.placebos import share_interval
from ablab.analysis.selection import compare_selected
from ablab.config.placebo import KINDS, placebo_of
from ablab.report.context import ReportContext
from ablab.report.formats import render
from ablab.report.formats.machine import document
from ablab.report.html.page import page
from ablab.report.sentences import verdict_sentence
from ablab.report.study_notes import study_notes
from ablab.results.record import Record

BASE = [1.00, 1.02, 0.97, 1.05, 0.99]
GELU = [value + 0.010 + noise for value, noise in zip(BASE, [0.001, -0.001, 0.0, 0.002, -0.002], strict=True)]
GLU = [value - 0.2 + noise for value, noise in zip(BASE, [0.001, -0.001, 0.0, 0.002, -0.002], strict=True)]


def placebo(kind: str, losses: list[float], **changes: object) -> list[Record]:
    model = {"d_model": 64, "placebo": kind}
    made = [record(seed, loss, **changes) for seed, loss in enumerate(losses, start=1)]
    return [dataclasses.replace(each, config={**each.config, "model": model}) for each in made]


def beside(*records: Record) -> Comparisons:
    return compare(runs_of([*study({"relu": BASE, "gelu": GELU, "glu": GLU}), *records]))


SMALL = placebo("order", [value + noise for value, noise in zip(BASE, [0.01, -0.01, 0.01, -0.01, 0.005], strict=True)])
LARGE = placebo("order", [value + noise for value, noise in zip(BASE, [0.06, -0.01, 0.05, -0.02, 0.02], strict=True)])
EQUAL = placebo("draw", BASE)


def test_a_placebo_changes_nothing_of_what_is_concluded_of_variants() -> None:
    """But for the floor: no estimate, p, interval, variant, factor or interaction."""
    for seeds in (3, 5):
        without = study({"relu": BASE[:seeds], "gelu": GELU[:seeds], "glu": GLU[:seeds]})
        runs, plain = runs_of([*without, *SMALL[:seeds], *EQUAL[:seeds]]), runs_of(without)
        found, expected = compare(runs), compare(plain)
        assert [dataclasses.replace(item, floor=None) for item in found.items] == list(expected.items)
        assert (runs.variants, runs.factors, runs.tasks) == (plain.variants, plain.factors, plain.tasks)
        assert runs.table.equals(plain.table)
        assert len(runs.every.records) == len(plain.records) + 2 * seeds
        made = [interactions(each, "language", "val_loss", "activation=relu") for each in (runs, plain)]
        assert made[0] == made[1]


def test_no_effect_below_the_floor_is_claimed() -> None:
    above, below = beside(*SMALL), beside(*LARGE)
    assert above.placebos.floor("language") == pytest.approx(0.001)
    assert below.placebos.floor("language") == pytest.approx(0.02)
    assert [item.verdict for item in above.items] == ["WORSE", "BETTER"]
    assert [item.verdict for item in below.items] == ["WITHIN THE PLACEBOS", "BETTER"]
    assert verdict_sentence(below.items[0]).endswith(
        "5 seeds; placebos differ from the baseline by up to 0.0200, and no effect below that is claimed."
    )


def test_each_placebo_is_judged_by_itself_and_those_that_are_resolved_are_counted() -> None:
    """Among hundreds of comparisons it would not be: none of the correction is the placebo's."""
    resolved = placebo(
        "order", [value + 0.001 + noise / 1e4 for value, noise in zip(BASE, [1, -1, 2, 0, 1], strict=True)]
    )
    found = beside(*resolved, *EQUAL)
    by_kind = {item.kind: item for item in found.placebos.items}
    assert {kind: (item.resolved, item.equal) for kind, item in by_kind.items()} == {
        "order": (True, False),
        "draw": (False, True),
    }
    assert by_kind["order"].comparison.p_adjusted == by_kind["order"].comparison.p_raw
    low, high = share_interval(1, 2)
    assert study_notes(found)[-1] == (
        f"PLACEBOS  1 of 2 comparisons with placebos came out resolved, each by itself (50%, 95% CI {low:.0%} to "
        f"{high:.0%}; 5% are expected); 1 was equal to the last bit on every seed."
    )


def test_placebos_that_are_equal_make_no_floor_above_zero_and_are_said_to_be() -> None:
    found = beside(*EQUAL)
    assert found.placebos.floor("language") == 0
    assert [item.verdict for item in found.items] == ["WORSE", "BETTER"]
    assert any("differ from the baseline by nothing" in note for note in study_notes(found))


def test_of_placebos_that_are_noise_alone_about_one_in_twenty_is_resolved() -> None:
    generator = np.random.default_rng(0)
    records = []
    for task in range(120):
        base = 1 + 0.1 * generator.standard_normal(4)
        both = {"": base, "order": base + 0.01 * generator.standard_normal(4)}
        for kind, losses in both.items():
            axes = {"task": f"task{task}"}
            records += (
                placebo(kind, losses.tolist(), axes=axes)
                if kind
                else [record(seed, loss, axes=axes) for seed, loss in enumerate(losses, start=1)]
            )
    found = compare(runs_of(records))
    assert len(found.placebos.items) == 120
    assert 1 <= sum(item.resolved for item in found.placebos.items) <= 13
    assert len(found.placebos.suite) == 1
    assert found.items == ()


def test_a_placebo_belongs_to_the_variant_whose_settings_it_has() -> None:
    """Whatever the others are compared with, and where several are asked for, each on its own."""
    records = [*study({"relu": BASE, "gelu": GELU}), *placebo("order", GELU, axes={"activation": "gelu"}), *SMALL]
    for baseline in ("activation=relu", "activation=gelu"):
        found = compare(runs_of(records), baseline=baseline)
        of = [(item.comparison.baseline, item.comparison.effect) for item in found.placebos.items]
        assert of == [("activation=gelu", 0), ("activation=relu", pytest.approx(0.001))]


def test_what_the_runs_are_filtered_by_holds_for_placebos() -> None:
    runs = runs_of([*study({"relu": BASE, "gelu": GELU}), *SMALL])
    found, left = compare_selected(runs, ["seed=1,2,3"])
    assert [item.comparison.seeds for item in found.placebos.items] == [(1, 2, 3)]
    assert len(left.every.records) == 9


def test_every_format_shows_placebos_as_what_they_are() -> None:
    context = ReportContext.of(runs_of([*study({"relu": BASE, "gelu": GELU}), *LARGE, *EQUAL]))
    for format in ("terminal", "markdown", "latex", "csv"):
        text = render(context, format)
        assert "another order of sums" in text
        assert "one unused draw" in text
    assert {each["kind"] for each in document(context)["placebos"]} == set(KINDS)
    assert "activation=relu,model.placebo=order" in set(context.run_rows["variant"])
    assert "activation=relu,model.placebo=order" not in set(context.variant_rows["variant"])
    assert 'id="placebos"' in page(context)


def test_runs_that_are_all_placebos_are_told_apart() -> None:
    runs = runs_of([*SMALL, *EQUAL])
    assert runs.variants == ["model.placebo=order", "model.placebo=draw"]
    assert len(compare(runs).items) == 1


def test_a_config_of_anything_is_read() -> None:
    odd: list[object] = [None, {}, {"placebo": None}, {"placebo": 3}]
    assert [placebo_of({"model": each}) for each in odd] == [""] * len(odd)
    assert placebo_of({}) == ""
