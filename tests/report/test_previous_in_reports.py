"""Each variant beside the one before it, as tables, pages and figures say it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from climbing import ladder
from synthetic import runs_of, study

from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.formats import render
from ablab.report.html.page import page
from ablab.results.record import Record

VALUES = {"relu": [1.0, 1.2, 1.4, 1.1], "gelu": [1.4, 1.63, 1.8, 1.52], "silu": [1.41, 1.6, 1.83, 1.5]}
STEPS = (
    "STEPS  each variant is compared with the one before it; --baseline 'activation=relu' compares all of them with "
    "the first, over scale, too."
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
    assert STEPS in found["notes"]


def test_the_page_and_its_figures_say_so(context: ReportContext) -> None:
    text = page(context)
    assert "Each variant is compared with the one before it; the first is <code>activation=relu</code>." in text
    drawn = drawings.forest(context, "language")
    assert drawn is not None
    assert drawn.alt.startswith("Effects on val_loss against the one before each: ")


def test_what_holds_over_scale_is_said_upon_one_variant_alone() -> None:
    climbed = ReportContext.of(runs_of(declaring(ladder())))
    assert climbed.over_scale == ()
    assert STEPS in render(climbed, "terminal")
    assert ReportContext.of(climbed.runs, baseline="activation=relu").over_scale
