"""What reports say and show of a ladder, in every format, from records alone."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace

import pytest
from climbing import BASELINE, COMPUTE, VARIANTS, ladder
from synthetic import runs_of, study

from ablab.analysis.comparison import compare
from ablab.analysis.selection import compare_and_select
from ablab.errors import UserError
from ablab.report.context import ReportContext
from ablab.report.figures import over_scale as figures
from ablab.report.figures.over_scale import effects_ahead, laws
from ablab.report.formats import render
from ablab.report.formats.scale import scale_rows
from ablab.report.formatting import MISSING
from ablab.report.html.sections.over_scale import over_scale
from ablab.report.notebook import LoadedStudy
from ablab.report.over_scale import effects_table, scale_lines, scale_table
from ablab.results.interim import InterimAnalysis

HOLDS = re.compile(
    r"HOLDS       better lowers val_loss by 0\.099\d at d_model=256, and at 10 times the compute by 0\.099\d \(90% of "
    r"measurements -0\.10\d\d to -0\.09\d\d; Holm p < \.001\); worth \d\.\d\d \(\d\.\d\d to \d\.\d\d\) times the "
    r"compute, times \d\.\d\d with each tenfold\."
)


@pytest.fixture(scope="module")
def context() -> ReportContext:
    return ReportContext.of(runs_of(ladder()))


@pytest.fixture(scope="module")
def lines(context: ReportContext) -> list[str]:
    return scale_lines(context.over_scale)


@pytest.mark.parametrize(
    ("where", "begins"),
    [(4e11, "better lowers val_loss by 0.0"), (2.5e11, "better lowers val_loss by 0.2")],
)
def test_what_reverses_begins_with_the_effect_that_it_is_contrary_to(where: float, begins: str) -> None:
    """Beyond the largest size that is the one there; where it lies before it, that of the smallest size."""
    runs = runs_of(
        ladder({"relu": BASELINE, "better": lambda compute: BASELINE(compute) + 0.1 * math.log10(compute / where)})
    )
    line = scale_lines(ReportContext.of(runs).over_scale)[1].removeprefix("REVERSES    ")
    assert line.startswith(begins), line
    of_the_smallest = "at d_model=16, is at +0.0" in line
    assert of_the_smallest == (where < COMPUTE[-1]), line
    assert ", and raises it at 10 times the compute by " in line


def test_each_verdict_is_a_line(lines: list[str]) -> None:
    assert lines[0].startswith("OVER SCALE  language: 5 sizes, 1 GFLOPs to 256 GFLOPs (256 times as many)")
    assert [line.split()[0] for line in lines[1:]] == ["HOLDS", "FADES", "UNKNOWN", "LAW", "HELD"]
    assert HOLDS.fullmatch(lines[1])
    assert "and at 10 times the compute by less than half of that: +0.00" in lines[2]
    assert "its floor is not identified" in lines[4] or "fits" in lines[4]
    assert lines[5].endswith("(95% CI 29% to 100%).")


def test_the_tables_have_a_row_for_each_variant(context: ReportContext) -> None:
    (found,) = context.over_scale
    table = scale_table(found)
    assert table["variant"].tolist() == ["better", "faded", "nothing"]
    assert table["verdict"].tolist() == ["* HOLDS", "* FADES", "UNKNOWN"]
    assert set(table["held out"]) <= {"inside", "outside"}
    sizes = effects_table(found)
    assert list(sizes) == ["variant", *(f"d_model={16 * 2**place}" for place in range(len(COMPUTE)))]
    assert sizes["d_model=256"][0].startswith("-0.0997 ± ")


@pytest.mark.parametrize("format", ["terminal", "markdown", "latex"])
def test_what_people_read_has_it(context: ReportContext, lines: list[str], format: str) -> None:
    text = render(context, format)
    assert "at ten times" in text or "Over scale" in text
    assert lines[1].split("(")[0].split("  ")[-1].strip().replace("_", "\\_" if format == "markdown" else "_") in text
    assert text.count("HOLDS") >= 2


def test_programs_have_every_number(context: ReportContext, lines: list[str]) -> None:
    found = json.loads(render(context, "json"))["over_scale"]
    assert (found["times"], found["confidence"], found["lines"]) == (10, 0.9, lines)
    (on,) = found["ladders"]
    assert [size["flops"] for size in on["sizes"]] == list(COMPUTE)
    better = on["variants"][0]
    assert (better["label"], better["verdict"]) == ("better", "HOLDS")
    assert better["interval"][0] < better["effect_then"] < better["interval"][1]
    assert len(better["sizes"]) == len(COMPUTE)
    assert better["held_out"]["inside"] in (True, False)
    rows = [row for row in csv.DictReader(io.StringIO(render(context, "csv"))) if row["row"] == "over_scale"]
    assert [row["variant"] for row in rows] == [f"activation={name}" for name in VARIANTS if name != "relu"]
    assert float(rows[0]["low"]) == pytest.approx(better["interval"][0])


def test_the_section_has_two_pictures_that_say_what_they_show(context: ReportContext) -> None:
    section = over_scale(context)
    assert section is not None
    figures = [block.figure for block in section.blocks if block.figure]
    assert len(figures) == 2
    (found,) = context.over_scale
    ahead = effects_ahead(found, context.styles)
    assert ahead is not None
    assert HOLDS.search(ahead.alt)
    assert len([axes for axes in ahead.figure.axes if axes.get_visible()]) == 3
    of_laws = laws(found, context.styles)
    assert of_laws is not None
    assert "val_loss over compute" in of_laws.alt


@pytest.mark.usefixtures("_plain_figures")
def test_intervals_are_named_by_the_level_of_the_study() -> None:
    seen = tuple(InterimAnalysis(tuple(range(1, last)), f"2026-01-0{last}T00:00:00+00:00") for last in (3, 5))
    looked = replace(runs_of(ladder({"relu": BASELINE, "better": VARIANTS["better"]})), interim_analyses=seen)
    context = ReportContext.of(looked)
    section = over_scale(context)
    assert section is not None
    scale, sizes = section.blocks[-2:]
    assert scale.table is not None
    assert "gain (97.5% CI)" in scale.table
    assert sizes.text == "± is half of the 97.5% CI of each."


def test_that_laws_and_effects_leave_variants_out_is_said(
    context: ReportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = context.over_scale
    monkeypatch.setattr(figures, "_MOST_LAWS", 2)
    monkeypatch.setattr(figures, "MOST_VARIANTS", 2)
    said = "Drawn are 2 of 3 variants: those with a verdict, then those with the largest effects."
    for drawn in (laws(found, context.styles), effects_ahead(found, context.styles)):
        assert drawn is not None
        assert drawn.left_out == said
        assert drawn.alt.endswith(said)


def test_a_filter_shows_fewer_and_corrects_for_all(context: ReportContext) -> None:
    (shown, runs), (every, left) = compare_and_select(context.runs, ["activation=better"])
    filtered = ReportContext(runs, shown, ReportContext(left, every))
    (of_one,), (of_all,) = filtered.over_scale, context.over_scale
    assert [item.climb.label for item in of_one.items] == ["better"]
    assert of_one.items[0].p_sign == of_all.items[0].p_sign


def test_too_few_sizes_or_seeds_are_said() -> None:
    laws = {"relu": BASELINE, "better": VARIANTS["better"]}
    two = scale_lines(ReportContext.of(runs_of(ladder(laws, compute=COMPUTE[:2]))).over_scale)
    assert two[1] == "UNKNOWN     better: pairs at 2 sizes; an extrapolation needs 3."
    pairs = scale_lines(ReportContext.of(runs_of(ladder(laws, seeds=2))).over_scale)
    assert pairs[1] == "UNKNOWN     better: 2 pairs at some size; each of 3 sizes needs 3."


def test_a_study_without_a_ladder_says_nothing_of_it() -> None:
    runs = runs_of(study({"relu": [1.0, 1.1, 1.2], "gelu": [1.1, 1.2, 1.3]}))
    plain = ReportContext(runs, compare(runs))
    assert plain.over_scale == ()
    assert over_scale(plain) is None
    assert "over_scale" not in json.loads(render(plain, "json"))


def test_a_row_has_the_p_of_its_own_verdict(context: ReportContext) -> None:
    (found,) = context.over_scale
    rows = {row["verdict"]: row for row in scale_rows(context.over_scale)}
    assert rows["FADES"]["p_adjusted"] == found.items[1].p_fade != found.items[1].p_sign
    assert rows["HOLDS"]["p_adjusted"] == found.items[0].p_sign


def test_a_gain_is_that_at_the_largest_size_or_none() -> None:
    lost = [item for item in ladder() if item.axes["activation"] != "better" or item.rung != "d_model=256"]
    (found,) = ReportContext.of(runs_of(lost)).over_scale
    assert scale_table(found)["gain (95% CI)"][0] == scale_table(found)["at its FLOPs"][0] == MISSING
    assert scale_table(found)["gain (95% CI)"][1] != MISSING
    assert "fewer than 3 pairs at d_model=256" in scale_lines([found])[1]


def test_a_notebook_has_the_same_verdicts_and_figures(context: ReportContext) -> None:
    loaded = LoadedStudy(context)
    table = loaded.over_scale()
    assert table["sentence"].tolist() == [row["sentence"] for row in scale_rows(context.over_scale)]
    assert table["verdict"].tolist() == ["HOLDS", "FADES", "UNKNOWN"]
    assert "row" not in table
    for figure in (loaded.plot.laws(), loaded.plot.over_scale(context.tasks[-1])):
        assert figure.axes
    without = LoadedStudy(ReportContext.of(runs_of(study({"relu": [1.0, 1.1], "gelu": [1.2, 1.3]}))))
    assert without.over_scale().empty
    with pytest.raises(UserError, match="nothing to draw"):
        without.plot.laws()
