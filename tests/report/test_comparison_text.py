"""The comparison as text: golden tables, and every format under odd runs."""

import csv
import dataclasses
import io
import json
import math
import os
import re
from pathlib import Path

import pytest
from scipy import stats
from synthetic import cost, ended, odd_runs, record, runs_of, study

from ablab.analysis.comparison import compare
from ablab.analysis.power import detectable
from ablab.errors import UserError
from ablab.report.context import ReportContext
from ablab.report.formats import render
from ablab.results.collect import Runs
from ablab.results.interim import InterimAnalysis

GOLDEN = Path(__file__).parent / "golden"
FORMATS = ["terminal", "csv", "markdown", "json", "latex"]


def rendered(runs: Runs, format: str) -> str:
    return render(ReportContext.of(runs), format)


@pytest.fixture
def runs() -> Runs:
    records = study(
        {"relu": [1.0, 1.02, 0.97, 1.05], "gelu": [1.104, 1.117, 1.071, 1.152], "glu": [0.9, 1.1, math.nan, 1.0]}
    )
    for item, speed in zip(records[4:8], (520.0, 560.0, 488.0, 544.0), strict=True):
        item.cost = cost(item, flops_total=138_000_000, tokens_per_second=speed)
    records.append(ended("failed", "out of memory | [red]killed", 5))
    return runs_of(records)


@pytest.mark.parametrize(("format", "golden"), [("markdown", "comparison.md"), ("terminal", "comparison.txt")])
def test_the_text_is_the_golden_one(runs: Runs, format: str, golden: str) -> None:
    text, path = rendered(runs, format), GOLDEN / golden
    if os.environ.get("ABLAB_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.fixture
def twice(runs: Runs) -> Runs:
    """The same runs at a second look."""
    seen = (
        InterimAnalysis((1, 2, 3), "2026-01-01T00:00:00+00:00"),
        InterimAnalysis((1, 2, 3, 4), "2026-01-02T00:00:00+00:00"),
    )
    return dataclasses.replace(runs, interim_analyses=seen)


@pytest.mark.parametrize("format", ["terminal", "markdown"])
def test_a_second_look_is_said_and_every_interval_names_its_confidence(runs: Runs, twice: Runs, format: str) -> None:
    once, again = rendered(runs, format), rendered(twice, format)
    assert "INTERIM ANALYSES" not in once
    assert "97.5%" not in once
    line = (
        "INTERIM ANALYSES  analysed at 3, then 4 seeds, which was not planned: this time each comparison alone is held "
    )
    assert sum(line in shown for shown in again.splitlines()) == 1
    assert "95%" not in again
    assert again.count("97.5% CI") == 3  # the heading, the one sentence with an interval, the line on intervals


@pytest.mark.parametrize("format", ["terminal", "markdown", "latex"])
def test_where_variants_ended_at_several_looks_each_interval_names_its_own_confidence(format: str) -> None:
    """O'Brien and Fleming leave little for the first look, at which one of the two has ended."""
    losses = {
        "relu": [1.0, 1.02, 0.97, 1.05, 0.99],
        "gelu": [1.1, 1.14, 1.05, 1.19, 1.08],
        "silu": [0.9, 0.93, 0.88],
    }
    plan = {"looks": [3, 5], "max": 5, "spending": "obrien_fleming"}
    found = runs_of([dataclasses.replace(each, planned_looks=plan) for each in study(losses)])
    assert [round(1 - item.level, 4) for item in compare(found).items] == [0.9565, 0.9908]
    text = rendered(found, format).replace("\\", "")
    rows = [line for line in text.splitlines() if "activation=gelu" in line or "activation=silu" in line]
    assert ["(95.65%)" in row for row in rows[:2]] == [True, False]
    assert ["(99.08%)" in row for row in rows[:2]] == [False, True]
    assert "95.65% CI, " not in text
    assert "each CI, at the level of its look, is of one comparison alone but those of 3 seeds, while" in text


@pytest.mark.parametrize("again", [False, True])
def test_machines_are_told_the_looks_and_the_confidence(runs: Runs, twice: Runs, again: bool) -> None:
    shown, confidence = (twice, 0.975) if again else (runs, 0.95)
    document = json.loads(rendered(shown, "json"))
    assert [look["seeds"] for look in document["interim_analyses"]] == ([[1, 2, 3], [1, 2, 3, 4]] if again else [])
    assert [item["confidence"] for item in document["comparisons"]] == [confidence] * 2
    low, high = stats.t.interval(confidence, 3, 0.101, stats.sem(document["comparisons"][0]["differences"]))
    assert document["comparisons"][0]["interval"] == pytest.approx([low, high])
    item = compare(shown).items[0]
    assert item.estimate is not None
    assert document["comparisons"][0]["detectable"] == pytest.approx(detectable(item.estimate, item.share_level))
    rows = list(csv.DictReader(io.StringIO(rendered(shown, "csv"))))
    assert [row["confidence"] for row in rows[:5]] == ["", str(confidence), str(confidence), "", ""]


def test_the_terminal_marks_only_what_is_resolved(runs: Runs) -> None:
    text = rendered(runs, "terminal")
    assert "* WORSE" in text
    assert "BETTER" not in text
    assert "out of memory | [red]killed" in text  # user text is no markup
    assert "…" not in text


@pytest.mark.parametrize("columns", ["20", "60", "300"])
def test_no_number_is_cut_short_in_a_terminal(runs: Runs, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    text = re.sub(r"\x1b\[[0-9;]*m", "", rendered(runs, "terminal"))
    for shown in ("activation=gelu", "1.111 ± 0.033", "+0.0963 to +0.1057", "* WORSE", "47.7 MiB", "4/5 ok, 1 failed"):
        assert shown in text


def test_csv_has_a_row_per_variant_and_per_unwell_run(runs: Runs) -> None:
    rows = list(csv.DictReader(io.StringIO(rendered(runs, "csv"))))
    assert [row["row"] for row in rows] == ["variant"] * 3 + ["run"] * 2 + ["note"] * 3
    assert rows[1]["sentence"].startswith("gelu raises val_loss by 0.1010 (95% CI")
    assert rows[5]["sentence"].startswith("INTERVALS  over seeds")
    assert rows[6]["sentence"] == "baseline seed 5: failed (out of memory | [red]killed)."
    assert float(rows[1]["effect"]) == pytest.approx(0.101)
    assert [row["reason"] for row in rows[3:5]] == ["train_loss became nan at step 7", "out of memory | [red]killed"]


def test_json_has_every_figure_of_a_comparison(runs: Runs) -> None:
    document = json.loads(rendered(runs, "json"))
    assert document["schema"] == 2
    gelu = document["comparisons"][0]
    assert gelu["variant"] == "activation=gelu"
    assert gelu["seeds"] == [1, 2, 3, 4]
    assert gelu["effect"] == pytest.approx(0.101)
    assert gelu["interval"] == pytest.approx([0.0963, 0.1057], abs=1e-4)
    assert gelu["verdict"] == "WORSE"
    assert gelu["sentence"].startswith("gelu raises val_loss by 0.101")
    assert len(document["runs"]) == 13
    assert document["runs"][-1]["value"] is None


# What each of the odd cases is told, in every format.
SAID = {
    "one run": "one variant: nothing to compare.",
    "one variant": "one variant: nothing to compare.",
    "one seed": "gelu: +0.10 on 1 seed; an interval needs 3 seeds.",
    "all failed": "one variant: nothing to compare.",
    "all failed, two variants": "gelu: no seed has a metric from both this variant and the baseline (2 seeds planned)",
    "baseline failed": "gelu: no seed has val_loss from both this variant and the baseline (3 seeds planned)",
    "metric missing": "gelu: no seed has val_loss from both this variant and the baseline (1 seed planned)",
    "metric NaN": "gelu: no seed has val_loss from both this variant and the baseline (1 seed planned)",
    "unicode": "活性化 $x$: +0.20 (95% CI -0.05 to +0.45; adj. p = .074), 3 seeds, preliminary.",
    "huge and tiny": "gelu: -2000000000000 (95% CI -4484137711750 to +484137711750; adj. p = .074), 3 seeds",
    "unequal seeds": "gelu: +0.30, +0.10 on 2 seeds; an interval needs 3 seeds.",
    "other task": "one variant: nothing to compare.",
    "unknown fields": "gelu: +0.30, +0.10 on 2 seeds; an interval needs 3 seeds.",
    "unequal metrics": "they are judged by different metrics (language by val_loss, vision by val_accuracy)",
    "two hundred variants": "v199 raises val_loss by 2.11 (95% CI 1.70 to 2.52; simultaneous p = .002); 3/3 seeds",
}


def test_every_odd_case_is_told_something() -> None:
    assert SAID.keys() == odd_runs().keys()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", odd_runs())
def test_odd_runs_are_told_what_is_odd_in_every_format(case: str, format: str) -> None:
    text = rendered(runs_of(odd_runs()[case]), format)
    assert SAID[case] in text.replace("\\", "")  # of Markdown's escapes
    if format == "json":
        assert json.loads(text)["runs"]


def test_an_unknown_format_names_those_there_are(runs: Runs) -> None:
    with pytest.raises(UserError, match="choose one of terminal, csv, markdown, json, latex"):
        rendered(runs, "yaml")


def test_the_mean_is_of_the_runs_that_count() -> None:
    again = [record(seed, 9.0, axes={"activation": "gelu"}, finished_at="2027-01-01T00:00:00Z") for seed in (1, 2)]
    runs = runs_of([*study({"relu": [1.0, 1.1, 1.2], "gelu": [0.9, 1.0, 1.1]}), *again])
    row = ReportContext.of(runs).variant_rows.set_index("variant").loc["activation=gelu"]
    assert row["mean"] == pytest.approx(1.0)
    assert row["sd"] == pytest.approx(0.1)
    assert row["status"] == "5/5 ok"
