"""A fixed suite of tasks: the average over tasks of each seed's difference, against a readable reference."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pytest
from said import notes_of, sentence_of
from scipy import stats
from synthetic import CORPUS, ended, record, runs_of

from ablab.analysis.comparison import Comparison, compare
from ablab.analysis.shared_error import mean_variance, shared_p, with_shared_error
from ablab.analysis.study_notes import NoSuite
from ablab.analysis.verdicts import Verdict
from ablab.report.study_notes import no_suite_text
from ablab.results.record import Metric, Record

TASKS = ("language", "recall", "vision")
Values = Mapping[str, Mapping[str, list[float]]]  # task -> variant -> the metric of seed 1, 2, ...


def values(seeds: int = 5, variants: tuple[str, ...] = ("relu", "gelu", "glu")) -> dict[str, dict[str, list[float]]]:
    draw = np.random.default_rng(7)
    found = {}
    for level, task in enumerate(TASKS, start=1):
        shared = draw.normal(level, 0.1, seeds)
        found[task] = {
            variant: list(shared + 0.02 * place + draw.normal(0, 0.01, seeds)) for place, variant in enumerate(variants)
        }
    return found


def records(of: Values, name: str = "val_loss") -> list[Record]:
    return [
        record(
            seed,
            axes={"task": task, "activation": variant},
            metrics={name: value},
            primary=Metric(name=name, split="val", direction="min"),
        )
        for task, variants in of.items()
        for variant, each in variants.items()
        for seed, value in enumerate(each, start=1)
    ]


def suite(found: list[Record]) -> dict[str, Comparison]:
    return {item.label: item for item in compare(runs_of(found)).suite}


def test_a_seed_is_one_average_over_the_tasks() -> None:
    of = values()
    items = suite(records(of))
    for variant in ("gelu", "glu"):
        average = np.mean([np.subtract(of[task][variant], of[task]["relu"]) for task in TASKS], axis=0)
        reference = stats.ttest_1samp(average, 0)
        assert items[variant].differences == pytest.approx(average)
        assert items[variant].interval == pytest.approx(tuple(reference.confidence_interval(0.95)))
        assert items[variant].p_raw == pytest.approx(reference.pvalue)
        assert items[variant].task == "suite of 3 tasks"


def test_the_suite_holds_half_of_the_level_and_the_tasks_the_other() -> None:
    """Two comparisons on the suite weigh as much as six on tasks: Holm's method with weights, step by step."""
    found = compare(runs_of(records(values())))
    every = [*found.suite, *found.items]
    left = {place: (item.p_raw or 0, 1 / 4 if place < 2 else 1 / 12) for place, item in enumerate(every)}
    assert len(every) == 8
    largest = 0.0
    while left:
        place = min(left, key=lambda place: left[place][0] / left[place][1])
        p, weight = left[place]
        largest = max(largest, min(1.0, p / weight * sum(weight for _, weight in left.values())))
        assert every[place].p_adjusted == pytest.approx(largest)
        del left[place]


def test_three_seeds_share_the_error_of_the_averages() -> None:
    of = values(3)
    items = suite(records(of))
    table = np.mean([[of[task][variant] for variant in of[task]] for task in TASKS], axis=0)
    apart = [list(row - table[0]) for row in table[1:]]
    for differences, item in zip(apart, items.values(), strict=True):
        estimate = with_shared_error(differences, mean_variance(apart))
        statistic = abs(estimate.effect) / estimate.standard_error
        assert item.p_adjusted == pytest.approx(min(1, 2 * shared_p(statistic, 2, (2,))))  # half of the level
        assert (item.adjustment, item.preliminary) == ("simultaneous", True)


def test_a_variant_that_was_not_run_on_every_task_has_no_average() -> None:
    """Nor does what it lacks change the others, with three seeds, where the variance is shared."""
    of = values(3)
    without = [item for item in records(of) if (item.axes["task"], item.axes["activation"]) != ("recall", "gelu")]
    alone = suite([item for item in records(of) if item.axes["activation"] != "gelu"])["glu"]
    items = suite(without)
    assert items["gelu"].verdict is Verdict.NO_PAIRS
    assert "recall was not run with this variant." in notes_of(items["gelu"])
    assert items["glu"].p_adjusted == pytest.approx(alone.p_adjusted)


def test_a_seed_counts_only_where_every_task_has_a_complete_pair() -> None:
    found = records(values())
    (killed,) = [
        i for i, r in enumerate(found) if (r.axes["task"], r.axes["activation"], r.seed) == ("vision", "gelu", 2)
    ]
    found[killed] = ended("failed", "out of memory", 2, axes=found[killed].axes)
    item = suite(found)["gelu"]
    assert (item.seeds, item.planned) == ((1, 3, 4, 5), 5)
    assert notes_of(item) == ("seed 2 has no complete pair on vision.",)
    assert suite(found)["glu"].seeds == (1, 2, 3, 4, 5)


def test_runs_that_diverged_are_counted_over_all_tasks() -> None:
    found = records(values())
    (diverged,) = [
        i for i, r in enumerate(found) if (r.axes["task"], r.axes["activation"], r.seed) == ("vision", "gelu", 2)
    ]
    found[diverged] = ended("diverged", "nan", 2, axes=found[diverged].axes)
    item = suite(found)["gelu"]
    assert item.verdict is Verdict.UNSTABLE
    assert "1/15 diverged (baseline 0/15" in sentence_of(item)


def test_a_copy_on_every_task_makes_no_claim_and_a_copy_on_one_does() -> None:
    of = values(variants=("relu", "gelu", "copy"))
    for task in TASKS:
        of[task]["copy"] = of[task]["relu"]
    items = suite(records(of))
    assert items["copy"].verdict is Verdict.NO_EFFECT
    assert items["gelu"].p_adjusted == pytest.approx(2 * (items["gelu"].p_raw or 0))  # of two, on half of the level
    of["vision"]["copy"] = values(variants=("relu", "gelu", "copy"))["vision"]["copy"]
    assert suite(records(of))["copy"].interval is not None


def test_another_corpus_on_one_task_keeps_the_suite_from_being_compared() -> None:
    found = records(values())
    found[-1].corpus = dataclasses.replace(CORPUS, sha256="cd" * 32)  # vision, glu
    item = suite(found)["glu"]
    assert item.verdict is Verdict.NOT_COMPARABLE
    assert sentence_of(item).startswith("glu: on vision, trained on another corpus")
    assert item.effect is None


def test_unequal_conditions_are_said_of_all_tasks_together() -> None:
    found = records(values())
    for item in found:
        if item.axes["activation"] == "gelu" and item.axes["task"] == "vision":
            item.cost = dataclasses.replace(item.cost, flops_total=130_000_000)
    assert notes_of(suite(found)["gelu"]) == (
        "NOT COMPARABLE  +10% FLOPs against the baseline; the loss is not at equal compute.",
    )


def test_tasks_that_are_judged_by_different_metrics_make_no_suite_unless_one_is_asked_for() -> None:
    of = values()
    found = [*records({"language": of["language"]}), *records({"recall": of["recall"]}, "val_error")]
    runs = runs_of(found)
    comparisons = compare(runs)
    assert comparisons.suite == ()
    assert notes_of(comparisons)[-1] == (
        "no verdict on the suite of 2 tasks: they are judged by different metrics "
        "(language by val_loss, recall by val_error); --metric compares all of them by one."
    )
    assert len(compare(runs, metric="tokens_per_second").suite) == 2


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("direction", NoSuite("mixed directions")),
        ("baseline", NoSuite("no baseline", ("recall",))),
        ("metric", NoSuite("no metric", ("recall",))),
    ],
)
def test_what_else_is_no_suite(spoil: str, why: NoSuite) -> None:
    found = []
    for item in records({task: values()[task] for task in TASKS[:2]}):
        recall = item.axes["task"] == "recall"
        if recall and spoil == "direction":
            item.primary = Metric(name="val_loss", split="val", direction="max")
        if recall and spoil == "metric":
            item = ended("failed", "boom", item.seed, axes=item.axes, primary=None)
        if not (recall and spoil == "baseline" and item.axes["activation"] == "relu"):
            found.append(item)
    comparisons = compare(runs_of(found))
    assert comparisons.suite == ()
    assert comparisons.no_suite == why
    assert f"no verdict on the suite of 2 tasks: {no_suite_text(why)}." in notes_of(comparisons)


def test_one_task_is_no_suite_and_nothing_is_said_of_it() -> None:
    comparisons = compare(runs_of(records({"language": values()["language"]})))
    assert (comparisons.suite, notes_of(comparisons)) == ((), ())


def test_a_missing_value_leaves_no_average() -> None:
    found = records(values())
    found[0].metrics["val_loss"] = math.nan  # language, relu, seed 1
    assert suite(found)["gelu"].seeds == (2, 3, 4, 5)
