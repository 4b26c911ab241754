"""Each variant beside the one before it, as tables, pages and figures say it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from climbing import ladder
from synthetic import record, runs_of, study, write_runs

from ablab.errors import UserError
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.formats import render
from ablab.report.html.page import page
from ablab.report.notebook import LoadedStudy
from ablab.results.record import Record

VALUES = {"relu": [1.0, 1.2, 1.4, 1.1], "gelu": [1.4, 1.63, 1.8, 1.52], "silu": [1.41, 1.6, 1.83, 1.5]}
STEPS = (
    "STEPS  each variant is compared with the one before it, which is what notes on it call the baseline; --baseline "
    "'activation=relu' compares all of them with the first"
)


def declaring(records: list[Record]) -> list[Record]:
    return [replace(each, config={**each.config, "comparison": {"baseline": "previous"}}) for each in records]


@pytest.fixture(scope="module")
def context() -> ReportContext:
    return ReportContext.of(runs_of(declaring(study(VALUES))))


@pytest.mark.parametrize("format", ["terminal", "markdown", "latex"])
def test_tables_say_with_whom_each_is_compared(context: ReportContext, format: str) -> None:
    text = render(context, format)
    assert "against the one before each" in " ".join(text.split())
    assert "against activation=relu" not in text


def test_programs_are_told_of_each_comparison(context: ReportContext) -> None:
    found = json.loads(render(context, "json"))
    assert found["baseline"] == "previous"
    pairs = [(item["variant"], item["baseline"]) for item in found["comparisons"]]
    assert pairs == [("activation=gelu", "activation=relu"), ("activation=silu", "activation=gelu")]
    assert f"{STEPS}." in found["notes"]
    assert [row["baseline"] for row in found["variants"]] == ["", "activation=relu", "activation=gelu"]


def test_the_page_and_its_figures_say_so(context: ReportContext) -> None:
    text = page(context)
    assert "Each variant is compared with the one before it; the first is <code>activation=relu</code>." in text
    drawn = drawings.forest(context, "language")
    assert drawn is not None
    assert drawn.alt.startswith("Effects on val_loss against the one before each: ")


def test_what_holds_over_scale_is_said_upon_one_variant_alone() -> None:
    climbed = ReportContext.of(runs_of(declaring(ladder())))
    assert climbed.over_scale == ()
    assert f"{STEPS}, over scale, too." in render(climbed, "terminal")
    with pytest.raises(UserError, match=r'^over scale nothing is said .* load with baseline="activation=relu"$'):
        LoadedStudy(climbed).plot.laws()
    assert ReportContext.of(climbed.runs, baseline="activation=relu").over_scale


@pytest.mark.usefixtures("_plain_figures")
def test_a_page_of_some_of_them_shows_each_beside_the_one_before_it(tmp_path: Path) -> None:
    """On a grid, which has interactions: they are told from one baseline, and not here."""
    grid = [("full", "relu"), ("lsh", "relu"), ("full", "gelu"), ("lsh", "gelu")]
    records = [
        record(seed, 1 + seed / 9 + place / 7, axes={"attention": one, "activation": other}, index=4 * seed + place)
        for seed in range(4)
        for place, (one, other) in enumerate(grid)
    ]
    folder = write_runs(tmp_path, records)
    shown = ReportContext.read([folder], ["activation=gelu"], baseline="previous")
    text = page(shown)
    assert 'id="interactions"' not in text
    assert [row["variant"] for row in shown.rows("language")] == [
        "activation=relu,attention=lsh",
        "activation=gelu,attention=full",
        "activation=gelu,attention=lsh",
    ]
    assert LoadedStudy(shown).interactions().empty
    with pytest.raises(UserError, match=r"^nothing is said of interactions"):
        LoadedStudy(shown).plot.interactions("activation", "attention")
    assert 'id="interactions"' in page(ReportContext.read([folder]))
