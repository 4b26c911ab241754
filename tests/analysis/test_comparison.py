"""From records to comparisons: pairing, correction, and every way in which runs can be incomplete."""

import dataclasses
import math

import numpy as np
import pytest
from said import notes_of, sentence_of
from synthetic import ACCURACY, CORPUS, cost, ended, record, runs_of, study

from ablab.analysis.comparison import Comparison, Comparisons, compare
from ablab.analysis.estimates import holm, paired
from ablab.analysis.metrics import directed
from ablab.analysis.shared_error import shared_p
from ablab.analysis.verdicts import Verdict
from ablab.errors import UserError
from ablab.results.record import Metric, Record

BASE = [1.00, 1.02, 0.97, 1.05, 0.99]
JITTER = [0.004, -0.003, 0.001, 0.002, -0.004]


def shifted(effect: float, seeds: int = 5) -> list[float]:
    return [value + effect + noise for value, noise in zip(BASE[:seeds], JITTER, strict=False)]


def only(comparisons: Comparisons) -> Comparison:
    (item,) = comparisons.items
    return item


def compared(records: list[Record], margin: float | None = None) -> Comparison:
    return only(compare(runs_of(records), margin=margin, margin_declared=True))


def test_an_effect_is_paired_by_seed_not_by_position() -> None:
    records = study({"relu": BASE, "gelu": shifted(0.1)})
    item = compared(records)
    backwards = compared([*records[:5], *reversed(records[5:])])
    assert item.effect == pytest.approx(np.mean(JITTER) + 0.1)
    assert backwards == item
    assert item.seeds == (1, 2, 3, 4, 5)


def test_the_p_values_are_holms_over_all_comparisons() -> None:
    effects = {"gelu": 0.002, "glu": -0.01, "swiglu": 0.1}
    items = compare(runs_of(study({"relu": BASE, **{k: shifted(v) for k, v in effects.items()}}))).items
    raw = [paired(item.differences).p_value for item in items]
    assert [item.p_raw for item in items] == pytest.approx(raw)
    assert [item.p_adjusted for item in items] == pytest.approx(holm(raw))
    assert [item.verdict for item in items] == ["UNRESOLVED", "BETTER", "WORSE"]


def test_three_seeds_share_a_standard_error_and_say_preliminary() -> None:
    item = compare(runs_of(study({"relu": BASE[:3], "gelu": shifted(0.3, 3), "glu": shifted(0.0, 3)}))).items[0]
    assert item.adjustment == "simultaneous"
    assert item.preliminary
    assert "3/3 seeds, preliminary" in sentence_of(item)


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds_give_no_interval(seeds: int) -> None:
    item = compared(study({"relu": BASE[:seeds], "gelu": shifted(0.3, seeds)}))
    assert item.verdict is Verdict.TOO_FEW_SEEDS
    assert (item.interval, item.p_raw, item.p_adjusted) == (None, None, None)


def test_a_copy_of_the_baseline_is_found_and_makes_no_claim() -> None:
    with_copy = compare(runs_of(study({"relu": BASE, "copy": BASE, "gelu": shifted(0.005)}))).items
    without = compared(study({"relu": BASE, "gelu": shifted(0.005)}))
    assert with_copy[0].verdict is Verdict.NO_EFFECT
    assert with_copy[1].p_adjusted == without.p_adjusted


def test_a_copy_of_the_baseline_does_not_calm_the_pooled_variance() -> None:
    values = {"relu": BASE[:3], "gelu": shifted(0.01, 3), "glu": shifted(0.02, 3)}
    without = compare(runs_of(study(values))).items
    with_copy = compare(runs_of(study({**values, "copy": BASE[:3]}))).items
    assert [item.interval for item in with_copy[:2]] == [item.interval for item in without]


def test_a_larger_model_with_the_same_metrics_is_no_copy() -> None:
    records = study({"relu": BASE, "gelu": BASE})
    for item in records[5:]:
        item.cost = cost(item, parameters=99)
    assert compared(records).verdict is Verdict.UNRESOLVED


def test_failed_runs_are_missing_and_named() -> None:
    records = study({"relu": BASE, "gelu": shifted(0.1)})
    records[7] = ended("failed", "out of memory", 3, axes={"activation": "gelu"})
    item = compared(records)
    assert item.seeds == (1, 2, 4, 5)
    assert notes_of(item) == ("seed 3: failed (out of memory).",)
    assert "4/5 seeds" in sentence_of(item)
    assert (item.diverged, item.ended) == (0, 4)


def test_what_the_baseline_lacks_is_said_once() -> None:
    records = study({"relu": BASE, "gelu": shifted(0.1), "glu": shifted(0.2)})
    records[1] = ended("interrupted", "killed", 2)
    found = compare(runs_of(records))
    assert notes_of(found) == ("baseline seed 2: interrupted (killed).",)
    assert [(notes_of(item), len(item.seeds)) for item in found.items] == [((), 4), ((), 4)]


def test_diverged_runs_are_counted() -> None:
    item = compared(study({"relu": BASE, "gelu": [math.nan, math.nan, *shifted(0.1)[2:]]}))
    assert item.verdict is Verdict.UNSTABLE
    assert sentence_of(item).startswith("2/5 diverged (baseline 0/5, Fisher p = .44); effect conditional on 3 pairs")


def test_a_run_that_pleases_later_does_not_replace_one_that_diverged() -> None:
    again = record(1, 0.5, axes={"activation": "gelu"}, finished_at="2026-02-01T00:00:00Z")
    item = compared([*study({"relu": BASE, "gelu": [math.nan, *shifted(0.1)[1:]]}), again])
    assert item.diverged == 1
    assert "seed 1 was finished 2 times: the first one counts." in notes_of(item)


def test_a_killed_run_is_replaced_by_its_repetition() -> None:
    killed = ended("interrupted", "killed", 1, axes={"activation": "gelu"})
    item = compared([*study({"relu": BASE}), killed, *study({"gelu": shifted(0.1)})])
    assert item.seeds == (1, 2, 3, 4, 5)
    assert notes_of(item) == ()


def test_unequal_seeds_pair_where_they_can() -> None:
    item = compared(study({"relu": BASE, "gelu": shifted(0.1)[:4]}))
    assert (item.seeds, item.planned) == ((1, 2, 3, 4), 5)
    assert notes_of(item) == ("seed 5 was not run.",)


def test_a_missing_or_nan_metric_is_a_missing_value() -> None:
    records = study({"relu": BASE, "gelu": shifted(0.1)})
    records[5].metrics = {}
    records[6].metrics["val_loss"] = math.nan
    item = compared(records)
    assert item.seeds == (3, 4, 5)
    assert notes_of(item)[0] == "seed 1: ok, but without a finite val_loss."


def test_nothing_finished() -> None:
    records = [
        ended("failed", "boom", s, axes={"activation": a}, primary=None) for a in ("relu", "gelu") for s in (1, 2)
    ]
    item = compared(records)
    assert item.verdict is Verdict.NO_PAIRS
    assert item.effect is None


def test_one_variant_has_nothing_to_be_compared_with() -> None:
    found = compare(runs_of(study({"relu": BASE})))
    assert found.items == ()
    assert notes_of(found) == ("one variant: nothing to compare.",)


def test_another_corpus_is_not_compared() -> None:
    records = study({"relu": BASE, "gelu": shifted(0.1)})
    records[6].corpus = dataclasses.replace(CORPUS, sha256="cd" * 32)
    item = compared(records)
    assert item.verdict is Verdict.NOT_COMPARABLE
    assert item.effect is None
    assert "trained on another corpus than the baseline: tales cdcdcdcd against tales abababab (seed 2)" in sentence_of(
        item
    )


def test_unequal_compute_is_noted() -> None:
    records = study({"relu": BASE, "gelu": shifted(-0.1)})
    for item in records[5:]:
        item.cost = cost(item, flops_total=138_000_000, parameters=12_346, tokens=3_200, flops_uncounted=["aten::sort"])
    assert notes_of(compared(records)) == (
        "NOT COMPARABLE  +38% FLOPs against the baseline; the gain is not at equal compute.",
        "+0.0081% parameters against the baseline.",
        "-50% tokens against the baseline; the gain is not at equal data.",
        "FLOPs that only one of the two spends on aten::sort are not counted.",
    )


@pytest.mark.parametrize(
    ("parameters", "noted"),
    [
        (12_345, None),
        (12_962, "+5% parameters against the baseline."),  # 4.998%
        (12_963, "NOT COMPARABLE  +5% parameters against the baseline; the gain is not at equal size."),  # 5.006%
        (9_000, "NOT COMPARABLE  -27% parameters against the baseline; the gain is not at equal size."),
        (12_000, "-2.8% parameters against the baseline."),
    ],
)
def test_five_percent_of_parameters_is_where_size_becomes_unequal(parameters: int, noted: str | None) -> None:
    records = study({"relu": BASE, "gelu": shifted(-0.1)})
    for item in records[5:]:
        item.cost = cost(item, parameters=parameters)
    assert notes_of(compared(records)) == ((noted,) if noted else ())


@pytest.mark.parametrize(
    ("active", "noted"),
    [
        (12_345, ("the gain is not at equal size, but at equal active parameters (exactly).",)),
        (12_500, ("the gain is not at equal size, but at equal active parameters (+1.3%).",)),
        (
            15_000,
            (
                "the gain is not at equal size.",
                "NOT COMPARABLE  +22% active parameters against the baseline; the gain is not at equal size.",
            ),
        ),
    ],
)
def test_where_size_is_unequal_and_active_parameters_are_equal_both_are_said(
    active: int, noted: tuple[str, ...]
) -> None:
    records = study({"relu": BASE, "gelu": shifted(-0.1)})
    for item in records[:5]:
        item.cost = cost(item, active_parameters=12_345)
    for item in records[5:]:
        item.cost = cost(item, parameters=30_000, active_parameters=active)
    first = f"NOT COMPARABLE  +143% parameters against the baseline; {noted[0]}"
    assert notes_of(compared(records)) == (first, *noted[1:])


def test_unequal_samples_are_noted_once_for_all_pairs() -> None:
    records = study({"relu": BASE, "gelu": shifted(-0.1)})
    for item in records:
        item.evaluated = {"val": 1000, "test": 1000}
    assert notes_of(compared(records)) == ()
    for item in records[5:8]:
        item.evaluated = {"val": 500, "test": 1000}
    records[3].evaluated = records[9].evaluated = {}  # as runs of earlier versions have it
    assert notes_of(compared(records)) == ("Not evaluated on equally many samples: val 500 against 1,000.",)


def test_two_percent_of_compute_is_equal() -> None:
    records = study({"relu": BASE, "gelu": shifted(-0.1)})
    for item in records[5:]:
        item.cost = cost(item, flops_total=102_000_000)
    assert notes_of(compared(records)) == ()


def test_other_software_is_noted() -> None:
    records = study({"relu": BASE, "gelu": shifted(0.1)})
    records[5].versions = {"ablab": "0.1.0", "torch": "2.12.0"}
    assert notes_of(compared(records)) == ("Not the same software: torch 2.12.0 against 2.13.0.",)


def test_a_constant_difference_is_suspicious() -> None:
    said = "The difference is the same on every seed, to rounding: does the seed reach the run?"
    assert notes_of(compared(study({"relu": [1.0] * 4, "gelu": [1.5] * 4}))) == (said,)
    said = (
        "The difference is the same on every seed, to rounding, though the seeds differ: is it in how the metric is "
        "computed, and not in what was learned?"
    )
    values = [1.0, 1.1, 0.9, 1.2]
    rounded = compared(study({"relu": values, "gelu": [value + 0.7 for value in values]}))
    assert len(set(rounded.differences)) > 1
    assert notes_of(rounded) == (said,)
    assert sentence_of(rounded).startswith("gelu: +0.70 (95% CI +0.70 to +0.70; adj. p = .12), 4 seeds.")  # by signs
    (odd,) = notes_of(compared(study({"relu": values, "gelu": [*values[:3], 1.2 + 1e-9]})))
    assert odd.startswith("ODD SEEDS  gelu: seed 4 lies apart")


def test_a_margin_of_two_metrics_is_said_to_be_of_both() -> None:
    records = [
        record(seed, 1 + seed / 10, axes={"task": task, "activation": option}, primary=primary)
        for task, primary in (("a", ACCURACY), ("b", record().primary))
        for option in ("relu", "gelu")
        for seed in (1, 2, 3)
    ]
    said = "one margin, 0.05, is held against val_accuracy and val_loss, each in its own unit."
    assert said in notes_of(compare(runs_of(records), margin=0.05))
    assert said not in notes_of(compare(runs_of(records)))
    assert not any("margin" in note for note in notes_of(compare(runs_of(records), metric="val_loss", margin=0.05)))


def test_a_resolved_effect_inside_the_margin_says_so() -> None:
    item = compared(study({"relu": BASE, "gelu": shifted(0.02)}), margin=0.05)
    assert item.verdict is Verdict.WORSE
    assert notes_of(item) == ("Resolved, but within the declared margin of 0.05.",)


def test_higher_is_better_for_a_task_that_says_so() -> None:
    records = study({"relu": BASE, "gelu": shifted(0.1)})
    for item in records:
        item.primary = Metric(name="val_loss", split="val", direction="max")
    assert compared(records).verdict is Verdict.BETTER


def test_any_figure_can_be_compared() -> None:
    records = study({"relu": BASE, "gelu": shifted(0.1)})
    runs = runs_of(records)
    for metric, direction in (("val_accuracy", "max"), ("tokens_per_second", "max"), ("peak_memory_bytes", "min")):
        found = compare(runs, metric=metric)
        assert only(found).direction == direction
        assert notes_of(found) == (
            f"{metric}: {'higher' if direction == 'max' else 'lower'} is taken as better, by its name.",
        )


@pytest.mark.parametrize(
    ("metric", "direction", "is_guessed"),
    [
        ("val_loss", "min", False),
        ("test_loss/length=64", "min", False),
        ("val_loss/source=accounts.txt", "min", False),
        ("val_loss@task=recall,task.length=64", "min", False),
        ("val_perplexity@task.path=accounts.txt", "min", True),
        ("val_bits_per_byte", "min", True),
        ("val_bits_per_dim", "min", True),
        ("val_exact", "max", True),
        ("val_accuracy/length=64", "max", True),
        ("val_f1/class=loss", "max", True),
        ("objective/accuracy_2", "max", True),
    ],
)
def test_the_direction_is_that_of_what_is_measured_wherever_it_is(
    metric: str, direction: str, is_guessed: bool
) -> None:
    primary = Metric(name="val_loss", split="val", direction="min")
    assert directed(metric, primary) == (metric, direction, is_guessed)


def test_tasks_are_compared_apart_and_corrected_together() -> None:
    def on(task: str, effect: float) -> list[Record]:
        records = study({"relu": BASE, "gelu": shifted(effect)})
        for item in records:
            item.axes = {**item.axes, "task": task}
        return records

    found = compare(runs_of([*on("language", 0.1), *on("vision", -0.1)]))
    assert [(item.task, item.verdict.value) for item in found.items] == [("language", "WORSE"), ("vision", "BETTER")]
    assert found.items[0].p_adjusted == pytest.approx(4 * (found.items[0].p_raw or 0))  # the suite holds the other half
    (suite,) = found.suite
    assert suite.verdict is Verdict.UNRESOLVED
    assert suite.p_adjusted == pytest.approx(suite.p_raw)  # the weight was handed on


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_margin_is_positive(margin: float) -> None:
    with pytest.raises(UserError, match="give a positive number"):
        compare(runs_of(study({"relu": BASE})), margin=margin)


def test_an_unknown_metric_names_the_nearest() -> None:
    runs = runs_of(study({"relu": BASE}))
    with pytest.raises(UserError, match=r"metric val_los: no run has it; did you mean 'val_loss'\?"):
        compare(runs, metric="val_los")
    with pytest.raises(UserError, match=r"the nearest of 12: activation/zero_share,"):
        compare(runs, metric="zzz")


def evaluated(values: dict[str, list[list[float]]]) -> list[Record]:
    """Runs with the evaluations given, variant -> seed -> the last ones; the last of all is the final value."""
    return [
        record(seed, each[-1], axes={"activation": option}, last={"val_loss": each})
        for option, runs in values.items()
        for seed, each in enumerate(runs, start=1)
    ]


LAST = {
    "relu": [[1.3, 1.2, 1.0], [1.4, 1.1, 1.1], [1.2, 1.2, 0.9], [1.5, 1.3, 1.0]],
    "gelu": [[1.1, 1.2, 1.1], [1.3, 1.2, 1.0], [1.3, 1.0, 1.0], [1.2, 1.4, 1.3]],
}


@pytest.mark.parametrize("last_k", [1, 2, 3])
def test_the_mean_of_the_last_evaluations_is_compared(last_k: int) -> None:
    found = compare(runs_of(evaluated(LAST)), last_k=last_k)
    means = {option: np.array([np.mean(each[-last_k:]) for each in runs]) for option, runs in LAST.items()}
    assert only(found).differences == pytest.approx(means["gelu"] - means["relu"])
    said = "val_loss: the mean of the last 3 evaluations of each run."
    assert (said in notes_of(found)) == (last_k == 3)


def test_a_run_with_fewer_evaluations_has_no_value_and_its_final_one_does_not_stand_in() -> None:
    records = evaluated(LAST)
    records[5].last = {"val_loss": [1.2, 1.0]}
    item = only(compare(runs_of(records), last_k=3))
    assert item.seeds == (1, 3, 4)
    assert notes_of(item) == ("seed 2: ok, but with 2 evaluations of val_loss, and the last 3 are averaged.",)


def test_an_evaluation_that_is_no_number_leaves_no_mean() -> None:
    records = evaluated(LAST)
    records[5].last = {"val_loss": [1.2, math.nan, 1.0]}
    item = only(compare(runs_of(records), last_k=3))
    assert notes_of(item) == ("seed 2: ok, but without a finite val_loss.",)


@pytest.mark.parametrize(
    ("metric", "last_k", "message"),
    [
        (None, 0, "last 0: runs keep their last 10 evaluations; give 1 to that many"),
        (None, 11, "last 11: runs keep their last 10 evaluations"),
        ("val_accuracy", 2, "last 2: no run kept its evaluations of val_accuracy; those that are: val_loss"),
        ("parameters", 2, "last 2: no run kept its evaluations of parameters; those that are: val_loss"),
    ],
)
def test_evaluations_that_no_run_keeps(metric: str | None, last_k: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        compare(runs_of(evaluated(LAST)), metric=metric, last_k=last_k)
    assert message in str(caught.value)


def test_runs_of_earlier_versions_keep_the_final_evaluation_alone() -> None:
    with pytest.raises(UserError, match="last 2: no run kept its evaluations of val_loss; runs of earlier versions"):
        compare(runs_of(study({"relu": BASE, "gelu": BASE})), last_k=2)


def test_comparisons_on_two_tasks_do_not_share_a_baseline() -> None:
    """Each task's comparisons share a standard error; two tasks hold half of the level each."""
    records = [
        record(seed, 1 + seed / 10 + shift * (1 + seed / 10), axes={"task": task, "activation": option})
        for task in ("a", "b")
        for option, shift in (("relu", 0.0), ("gelu", 0.01), ("silu", -0.02))
        for seed in (1, 2, 3)
    ]
    items = compare(runs_of(records)).items
    assert {item.adjustment for item in items} == {"simultaneous"}
    for item in items:
        assert item.estimate is not None
        statistic = abs(item.estimate.effect) / item.estimate.standard_error
        together = shared_p(statistic, 2, (2, 2))
        assert together == pytest.approx(min(1, 2 * shared_p(statistic, 2, (4,))))
        assert item.p_adjusted == pytest.approx(min(1, 2 * together))  # the suite holds the other half
