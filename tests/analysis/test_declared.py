"""What a study declares of its comparison: a margin before its runs, the split that decides, the intervals shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from said import notes_of, sentence_of
from synthetic import runs_of, study

from ablab.analysis.comparison import Comparison, Comparisons, compare
from ablab.analysis.declared import check_declared
from ablab.analysis.verdicts import Verdict
from ablab.config import ComparisonConfig
from ablab.errors import UserError
from ablab.report.context import ReportContext
from ablab.report.declared import declared_comparison
from ablab.report.html.sections.effects import effects
from ablab.report.study_notes import interval_lines
from ablab.report.tables import quality_table
from ablab.results.collect import Runs
from ablab.study.plan_file import write_plan

LOSSES = {
    "relu": [1.00, 1.02, 0.97, 1.05, 0.99],
    "gelu": [1.001, 1.019, 0.971, 1.052, 0.989],
    "glu": [1.03, 1.03, 1.01, 1.055, 1.045],
}


def runs(**declared: Any) -> Runs:
    """Five seeds of three variants, whose records hold what their study declared, if that is given."""
    records = study(LOSSES)
    for each in records:
        each.metrics["test_loss"] = each.metrics["val_loss"] + (0.1 if each.axes["activation"] == "gelu" else 0.0)
        if declared:
            each.config["comparison"] = dict(declared)
    return runs_of(records)


def first(found: Comparisons) -> Comparison:
    return found.items[0]


@pytest.mark.parametrize(
    ("held", "asked", "by_plan", "declared"),
    [
        ({}, {}, True, True),  # of earlier versions: the plan speaks
        ({}, {}, False, False),
        ({"margin": 0.02}, {}, False, True),  # the records alone, as of several folders
        ({"margin": 0.02}, {}, True, True),
        ({"margin": None}, {}, True, False),  # the command was given again, with a margin, when the runs were there
        ({"margin": 0.01}, {}, True, False),
        ({"margin": 0.02}, {"metric": "val_accuracy"}, True, False),  # another metric than it was declared for
        ({"margin": 0.02, "metric": "val_accuracy"}, {}, True, False),
        ({"margin": 0.02}, {"split": "test"}, True, False),
        ({"margin": 0.02, "split": "test"}, {"split": "test"}, True, True),
    ],
    ids=str,
)
def test_a_margin_was_declared_where_the_runs_say_so(
    held: dict[str, Any], asked: dict[str, Any], by_plan: bool, declared: bool
) -> None:
    found = compare(runs(**held), margin=0.02, margin_declared=by_plan, **asked)
    assert {item.margin_declared for item in found.items} == {declared}


def test_a_margin_on_the_command_line_is_never_called_declared(tmp_path: Path) -> None:
    """Also where it is given to a study that has declared none, or another one."""
    for declared, asked, said in (
        (ComparisonConfig(margin=0.02), {}, "(declared margin; "),
        (ComparisonConfig(margin=0.02), {"margin": 0.02}, "(declared margin; "),
        (ComparisonConfig(margin=0.03), {"margin": 0.02}, "(margin given after the runs; "),
        (ComparisonConfig(), {"margin": 0.02}, "(margin given after the runs; "),
    ):
        write_plan(tmp_path, declared, [])
        item = first(compare(runs(), **declared_comparison([tmp_path], **asked)))  # type: ignore[arg-type]
        assert item.verdict is Verdict.EQUIVALENT
        assert said in sentence_of(item)


def test_the_test_split_decides_where_the_study_says_so() -> None:
    assert first(compare(runs(), split="validation")).verdict is Verdict.UNRESOLVED
    found = compare(runs(), split="test")
    assert (first(found).metric, first(found).verdict) == ("test_loss", Verdict.WORSE)
    assert first(found).direction == "min"
    assert notes_of(found) == ()  # its direction is that of the primary metric
    assert "with one test split" in interval_lines(found)[0]


def test_a_split_that_is_not_there_is_refused_before_and_after_the_runs() -> None:
    without = runs_of(study(LOSSES))
    with pytest.raises(UserError, match="split test: no run on language has test_loss"):
        compare(without, split="test")
    with pytest.raises(UserError, match="split test: no run on language has test_loss"):
        check_declared(ComparisonConfig(split="test"), without)
    check_declared(ComparisonConfig(split="test"), runs())
    with pytest.raises(UserError, match="no run kept its evaluations of test_loss"):
        check_declared(ComparisonConfig(split="test", last_k=2), runs())


@pytest.mark.parametrize(
    ("declared", "line"),
    [
        ({"split": "train"}, "comparison.split=train: must be validation or test, or null"),
        ({"split": "test", "metric": "val_loss"}, "comparison.metric=val_loss says of which split it is"),
        ({"intervals": "both"}, "comparison.intervals=both: must be single or simultaneous"),
    ],
)
def test_what_cannot_be_declared(declared: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        ComparisonConfig(**declared)
    with pytest.raises(UserError, match="leave one of the two out"):
        compare(runs(), metric="val_loss", split="test")


def test_intervals_are_said_to_hold_alone_or_together() -> None:
    single, together = compare(runs()), compare(runs(), intervals="simultaneous")
    (alone,), (all_of_them,) = interval_lines(single), interval_lines(together)
    assert alone == (
        "INTERVALS  over seeds (initial values, order of the data, random draws), with one validation split; "
        "each 95% CI is of one comparison alone, while p is adjusted for all 2."
    )
    assert all_of_them.endswith("; the 95% CIs of all 2 comparisons hold together.")
    for one, other in zip(single.items, together.items, strict=True):
        assert one.estimate is not None
        assert one.shown_interval == one.interval == pytest.approx(one.estimate.interval(0.95))
        assert other.shown_interval == other.simultaneous == pytest.approx(one.estimate.interval(0.975))
        assert (one.verdict, one.p_adjusted) == (other.verdict, other.p_adjusted)  # what is shown decides nothing
        assert "(95% CI " in sentence_of(one)
        assert "(simultaneous 95% CI " in sentence_of(other)


def test_three_seeds_have_intervals_that_hold_together_in_any_case() -> None:
    three = compare(runs_of(study({name: values[:3] for name, values in LOSSES.items()})))
    assert interval_lines(three)[0].endswith("; the 95% CIs of all 2 comparisons hold together.")
    assert all(item.interval == item.simultaneous for item in three.items)
    one = compare(runs_of(study({name: LOSSES[name] for name in ("relu", "gelu")})))
    assert "alone" not in interval_lines(one)[0]
    assert interval_lines(compare(runs_of(study({"relu": [1.0], "gelu": [1.1]})))) == []


def test_the_kinds_of_machine_are_counted() -> None:
    records = study(LOSSES)
    for place, each in enumerate(records):
        each.machine = {"device": "cpu", "processor": "a" if place < 5 else "b", "threads": place}
    assert ", on 2 kinds of machine; " in interval_lines(compare(runs_of(records)))[0]
    for each in records:
        each.machine["processor"] = "a"  # threads make no other kind
    assert ", on one kind of machine; " in interval_lines(compare(runs_of(records)))[0]


def test_the_page_has_both_kinds_of_interval_beside_each_other() -> None:
    context = ReportContext.of(runs())
    (page,) = [block.table for block in effects(context).blocks if block.table is not None]
    assert {"95% CI", "simultaneous CI"} <= set(page.columns)
    assert "simultaneous CI" not in quality_table(context, "language").columns
    chosen = quality_table(ReportContext.of(runs(), intervals="simultaneous"), "language", both=True)
    assert list(chosen.columns)[4] == "simultaneous 95% CI"
    assert list(chosen.iloc[:, 4]) == list(page["simultaneous CI"])
