"""The sections of the report: each holds what its heading says, with the numbers of the analysis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import cost, record, runs_of, study
from worlds import TOGETHER, factorial, lengths, write

from ablab.analysis.power import detectable
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.figures.style import MOST_VARIANTS
from ablab.report.html.blocks import Block, Section
from ablab.report.html.page import page
from ablab.report.html.sections import interactions as interactions_module
from ablab.report.html.sections.cost import cost as cost_section
from ablab.report.html.sections.cost import scaling
from ablab.report.html.sections.curves import learning
from ablab.report.html.sections.effects import effects, pairs, power, verdicts
from ablab.report.html.sections.interactions import interactions
from ablab.report.html.sections.mechanism import matrices, mechanism
from ablab.report.html.sections.runs import differing_settings
from ablab.report.html.sections.subsets import subsets_of
from ablab.report.parallel import parallel_table
from ablab.report.theory import theory
from ablab.results.collect import collect
from ablab.results.communication import Communication
from ablab.results.record import Record

pytestmark = pytest.mark.usefixtures("_plain_figures")


def context(records: list[Record], **terms: Any) -> ReportContext:
    runs = runs_of(records)
    return ReportContext.of(runs, **terms)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ReportContext:
    runs = collect([write(tmp_path_factory.mktemp("study"), factorial())])
    return ReportContext.of(runs)


def block(section: Section | None, title: str) -> Block:
    assert section is not None
    return next(each for each in section.blocks if each.title == title)


def tables(section: Section | None) -> list[pd.DataFrame]:
    assert section is not None
    return [each.table for each in section.blocks if each.table is not None]


def test_the_verdicts_are_counted_in_a_sentence(world: ReportContext) -> None:
    assert verdicts(world).glance == "5 comparisons over 5 seeds: 2 better, 1 unstable, 2 worse."


def test_a_suite_comes_before_its_tasks() -> None:
    other = [record(item.seed, item.metrics["val_loss"], axes={**item.axes, "task": "vision"}) for item in _three()]
    both = context([*_three(), *other])
    assert verdicts(both).glance == "1 comparison on the suite of 2 tasks over 3 seeds: 1 worse."
    assert [task for task, _ in verdicts(both).groups] == ["suite of 2 tasks", "language", "vision"]
    for section in (effects(both), pairs(both), power(both)):
        assert section is not None
        titles = [each.title for each in section.blocks if each.title]
        assert titles == ["suite of 2 tasks", "language", "vision"]
        assert section.blocks[1].figure


def _three() -> list[Record]:
    return study({"relu": [1.0, 1.1, 1.2], "gelu": [1.3, 1.41, 1.5]})


def test_what_could_have_been_detected_is_a_row_per_comparison(world: ReportContext) -> None:
    (table,) = tables(power(world))
    items = [item for item in world.comparisons.items if item.estimate]
    assert list(table["variant"]) == [item.label for item in items]
    for row, item in zip(table.to_dict("records"), items, strict=True):
        assert item.estimate is not None
        assert item.share_level < 0.05  # there are others
        assert float(row["detectable"]) == pytest.approx(detectable(item.estimate, item.share_level), rel=0.05)
        assert "to" not in row["seeds to resolve what was found"]  # what was found may be far from what is there


def test_with_a_margin_the_seeds_are_those_that_resolve_it() -> None:
    (table,) = tables(power(context(_three(), margin=0.01)))
    assert all("to" in row for row in table["seeds to resolve the margin"])


def test_more_seeds_than_anybody_has_are_said_once() -> None:
    (table,) = tables(power(context(study({"relu": [1.0, 1.1, 1.3], "gelu": [1.0001, 1.2, 1.1999]}))))
    assert list(table["seeds to resolve what was found"]) == ["over 10,000"]


def test_without_an_interval_there_is_nothing_to_detect() -> None:
    assert power(context(study({"relu": [1.0, 1.1], "gelu": [1.2, 1.3]}))) is None
    assert pairs(context([record()])) is None


def test_budgets_that_differ_are_marked_in_the_table_and_in_the_words_of_the_figure(world: ReportContext) -> None:
    table, _ = tables(cost_section(world))
    marked = dict(zip(table["variant"], table["budget"], strict=True))
    assert marked["activation=relu,attention=lsh"] == "+20% FLOPs"
    assert marked["activation=gelu,attention=full"] == ""
    assert "activation=relu,attention=lsh at another budget (+20% FLOPs)" in str(cost_section(world).blocks[0].figure)


def test_equal_budgets_need_no_column() -> None:
    table, _ = tables(cost_section(context(_three())))
    assert "budget" not in table.columns


def test_the_front_is_named_in_words() -> None:
    base = np.array([1.0, 1.02, 0.97, 1.05])
    shifts = {"a": 0.0, "b": -0.1, "c": 0.2, "d": -0.11}
    wiggle = np.array([0.01, -0.01, 0.02, -0.02])
    records = study({name: list(base + shift + shift * wiggle) for name, shift in shifts.items()})
    records[-1].metrics["val_loss"] += 0.05  # so that d is not resolved better than b
    for item, flops in zip(records, np.repeat([100, 200, 300, 400], 4).tolist(), strict=True):
        item.cost = cost(item, flops_total=flops)
    section = cost_section(context(records))
    said = "training FLOPs: activation=a, activation=b on the front, perhaps activation=d."
    assert said in str(section.blocks[0].figure)
    assert "one family of their own, at the level .05 together" in section.intro
    table = block(section, "On the front?").table
    assert table is not None
    assert list(table["training FLOPs"]) == ["on", "on", "off", "perhaps"]


def test_curves_show_differences_and_the_time_to_the_target(world: ReportContext) -> None:
    section = learning(world)
    assert section.blocks[0].figure
    assert "activation=gelu,attention=windowed diverged" in str(section.blocks[0].figure)
    assert block(section, "Difference to the baseline, seed by seed").figure
    time = block(section, "Time to target")
    assert "hold at once: any excludes 1 in .05 of studies" in time.text
    table = time.table
    assert table is not None
    reached = dict(zip(table["variant"], table["reached"], strict=True))
    assert reached["windowed"] == reached["lsh"] == "5/5"  # by definition
    # The worlds' curves fall as 20 / step, each to its own loss: who ends lower is there sooner.
    factors = dict(zip(table["variant"], table["step"], strict=True))
    assert float(factors["windowed"].removeprefix("× ")) < 1
    assert float(factors["lsh"].removeprefix("× ")) > 1


def test_interactions_are_in_the_unit_of_the_metric(world: ReportContext) -> None:
    section = interactions(world)
    assert block(section, "activation and attention").figure
    table = next(each for each in tables(section) if "together" in each)
    found = table.set_index("together")["beyond the sum, val_loss"]
    assert float(found["activation=gelu and attention=lsh"]) == pytest.approx(TOGETHER, abs=0.01)
    assert list(table["resolved"]) == ["no", "yes"]
    variance = block(section, "Analysis of variance").table
    assert variance is not None
    assert list(variance["source"]) == ["seed", "activation", "attention", "activation:attention", "residual"]


def test_a_design_that_cannot_see_interactions_says_so() -> None:
    chosen = [{"attention": "full"}, {"attention": "lsh"}, {"attention": "full", "activation": "gelu"}]
    records = [record(seed, 1.0 + seed / 10, axes=axes) for axes in chosen for seed in (1, 2, 3)]
    section = interactions(context(records))
    assert section is not None
    assert [each.otherwise[:40] for each in section.blocks] == ["This design cannot see interactions: no "]
    assert interactions(context(_three())) is None  # one factor


def test_exponents_are_those_that_were_planted() -> None:
    section = scaling(context(lengths()))
    assert section is not None
    assert [each.title for each in section.blocks] == ["By seq_len"]
    assert section.blocks[0].figure
    (table,) = tables(section)
    found = table.set_index(["series", "metric"])["exponent"].astype(float)
    assert found["attention=full", "seconds_per_step"] == pytest.approx(2, abs=0.1)
    assert found["attention=lsh", "seconds_per_step"] == pytest.approx(1, abs=0.1)
    assert found["attention=lsh", "flops_per_step"] == pytest.approx(1, abs=0.01)
    assert scaling(context(_three())) is None


def test_of_two_hundred_variants_the_figures_show_some_and_the_tables_all() -> None:
    losses = {f"option{number:03}": [1.0 + number / 1000, 1.1, 1.2 + number / 700] for number in range(200)}
    many = context(study(losses))
    section = effects(many)
    assert section.blocks[0].text.startswith(f"Figures show {MOST_VARIANTS} of 200 variants")
    (table,) = tables(section)
    assert len(table) == 200


def test_that_figures_leave_variants_out_is_said_on_several_tasks_too() -> None:
    losses = {f"option{number:03}": [1.0 + number / 1000, 1.1, 1.2 + number / 700] for number in range(30)}
    other = [
        record(item.seed, item.metrics["val_loss"], axes={**item.axes, "task": "vision"}) for item in study(losses)
    ]
    both = context([*study(losses), *other])
    assert both.suite
    said = [block.text for block in effects(both).blocks if "of 30 variants" in block.text]
    assert len(said) == 1


def test_settings_that_differ_are_told_once_for_those_who_share_them() -> None:
    records = study({"relu": [1.0, 1.1], "gelu": [1.2, 1.3], "glu": [1.4, 1.5]})
    for item in records:
        item.config = {**item.config, "activation": {"_target_": item.axes["activation"]}, "model": {"d_model": 64}}
        item.config["optimizer"] = {"lr": 0.1 if item.axes["activation"] == "glu" else 0.3, "betas": [0.9, 0.99]}
    found = differing_settings(runs_of(records))
    assert set(found["key"]) == {"activation._target_", "optimizer.lr"}
    shared = found[(found["key"] == "optimizer.lr") & (found["value"] == "0.3")]
    assert shared["variants"].iloc[0].count(";") == 1


def test_long_lists_of_variants_are_shortened() -> None:
    names = [f"option{number:02}" for number in range(30)]
    records = study({name: [1.0 + place / 100] for place, name in enumerate(names)})
    for place, item in enumerate(records):
        item.config = {"optimizer": {"lr": 0.1 if place < 2 else 0.2 if place < 13 else 0.3}}
    told = dict(zip(*(differing_settings(runs_of(records))[key] for key in ("value", "variants")), strict=True))
    assert told["0.1"].count("activation=") == 2
    assert told["0.2"].count("activation=") == 8
    assert told["0.2"].endswith(" and 3 more")
    assert told["0.3"] == "all others (17)"


def test_a_setting_that_only_some_have_differs() -> None:
    records = study({"relu": [1.0], "gelu": [1.2]})
    records[1].config = {**records[1].config, "attention": {"window": 8}}
    assert list(differing_settings(runs_of(records))["key"]) == ["attention.window"]


def test_a_report_needs_no_curves() -> None:
    assert "No learning curves" in page(context(_three()))


def test_what_an_interaction_is_measured_from_and_what_its_sign_says(world: ReportContext) -> None:
    said = block(interactions(world), "activation and attention").text
    assert said.startswith("From the baseline's activation=relu and attention=full. Above 0, val_loss is higher")
    assert said.endswith("(lower is better).")
    better = ReportContext.of(world.runs, metric="val_accuracy")
    assert block(interactions(better), "activation and attention").text.endswith("(higher is better).")


def test_mechanism_figures_are_of_runs_that_ended_well() -> None:
    records = study({"relu": [1.0, 1.1, 1.2], "gelu": [1.3, 1.41, 1.5]})
    records[0].mechanism = {"activation/zero_share": 0.9}
    records[0].status = "failed"
    table = block(mechanism(context(records)), "activation").table
    assert table is not None
    assert list(table["zero_share"]) == ["0.5", "0.5"]


def test_a_seed_that_was_run_again_counts_once_in_every_table() -> None:
    """By its first run, as in the verdicts: running until a result pleases must not help."""

    def run(option: str, seed: int, value: float, day: int) -> Record:
        names = ("activation/zero_share", "modal_fusion/text_from_image/layer_0")
        item = record(seed, value, axes={"activation": option}, mechanism=dict.fromkeys(names, value))
        item.metrics["val_loss/with=text"], item.oracle = value, {"chance": 5.0, "ceiling": 0.05}
        item.cost = cost(item, wall_time_s=value, tokens_per_second=value)
        item.communication = (
            None if option == "relu" else Communication(steps=1, processes=2, backend="gloo", overlap=value)
        )
        return replace(item, finished_at=f"2026-01-0{day}T00:00:00Z")

    def shown(records: list[Record]) -> dict[str, str]:
        made = context(records)
        known = theory(made.runs, "language")
        assert known is not None
        return {
            "mechanism": str(tables(mechanism(made))),
            "matrices": str(matrices(made.runs, "language")),
            "subsets": str(subsets_of(made.runs, "language")),
            "theory": str(known.reached),
            "costs": str(made.variant_rows[["mean", "wall_time_s"]]),
            "parallel": str(parallel_table(made, "language").to_dict("records")),
        }

    once = [run(option, seed, seed / 10, day=1) for option in ("relu", "gelu") for seed in (1, 2, 3)]
    assert shown([*once, *(run("gelu", 1, 0.9, day) for day in (2, 3, 4))]) == shown(once)


def test_figures_that_have_no_room_are_counted(world: ReportContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interactions_module, "_MOST_PAIRS", 0)
    section = interactions(world)
    assert section is not None
    assert section.blocks[0].text.endswith(" Drawn are 0 of 1 pairs of factors: the first of the plan.")
    layers = {f"activation/{name}/layer_{layer}": 0.5 for name in "abcdefgh" for layer in (0, 1)}
    many = context([replace(item, mechanism=layers) for item in _three()])
    said = "Drawn are 6 of 8 metrics by layer: those that most variants have."
    assert said in str(block(mechanism(many), "activation").figure)


def test_one_variant_is_not_said_to_share_no_seed() -> None:
    alone = effects(context([record(1), record(2)]))
    assert alone.intro == ""
    assert alone.blocks[0].otherwise == "No effect to draw: there is one variant."


def test_a_margin_is_spoken_of_where_there_is_one() -> None:
    assert "margin" not in effects(context(_three())).intro
    assert "the margin given after the runs" in effects(context(_three(), margin=0.1)).intro
    assert "the declared margin" in effects(context(_three(), margin=0.1, margin_declared=True)).intro


def test_a_target_that_was_reached_before_the_first_evaluation_is_said_to_be(tmp_path: Path) -> None:
    folder = write(tmp_path, factorial())
    for curve in folder.glob("*/metrics.csv"):
        curve.write_text("step,val_loss\n100,0.4\n200,0.5\n", encoding="utf-8")
    runs = collect([folder])
    table = block(learning(ReportContext.of(runs)), "Time to target").table
    assert table is not None
    assert table["reached"][0] == "5/5, 5 before the first evaluation"
    assert set(table["step"]) == {"–"}


def test_figures_of_very_many_show_the_baseline_and_the_largest_effects() -> None:
    count = MOST_VARIANTS + 5
    many = context(study({f"v{number:02d}": [1 + number / 10, 1.1 + number / 10] for number in range(count)}))
    drawn = many.drawn("language").variants
    assert drawn == [f"activation=v{number:02d}" for number in (0, *range(count - MOST_VARIANTS + 1, count))]


def test_curves_by_tokens_are_drawn_where_steps_have_different_numbers_of_them(tmp_path: Path) -> None:
    records = factorial()
    for number, expected in ((0, 3), (1, 4)):
        for item in records:
            if item.axes["attention"] == "lsh" and item.status == "ok" and number:
                item.cost = cost(item, tokens=2 * item.cost.tokens)
        runs = collect([write(tmp_path / str(number), records)])
        drawn = drawings.curves(ReportContext.of(runs), "language")
        assert drawn is not None
        labels = [axes.get_xlabel() for axes in drawn.figure.axes if axes.get_visible()]
        assert len(labels) == expected
        assert any("token" in label for label in labels) == (expected > 3)
