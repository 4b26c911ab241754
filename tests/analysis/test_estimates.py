"""Estimates against closed forms, published tables and naive references."""

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic import cost, runs_of, study

from ablab.analysis.comparison import compare
from ablab.analysis.estimates import (
    LEVEL,
    correlation,
    fisher,
    holm,
    paired,
    rate_bound,
)
from ablab.analysis.family import COUNTED
from ablab.results.record import Cost


def test_the_paired_interval_is_the_one_scipy_gives() -> None:
    differences = [0.12, -0.05, 0.31, 0.08, 0.22]
    estimate = paired(differences)
    reference = stats.ttest_1samp(differences, 0)
    assert estimate.p_value == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval(0.95)
    assert estimate.interval() == pytest.approx((interval.low, interval.high))


def test_a_paired_estimate_needs_two_differences() -> None:
    with pytest.raises(ValueError, match="needs 2 differences, got 1"):
        paired([0.1])


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize("choice", [0.0, 1e-4])
def test_without_spread_the_p_value_is_that_of_the_signs(count: int, choice: float) -> None:
    """Also where the differences are equal but for the rounding of the values that they are taken of, or were tuned."""
    rounded = [1.1 * seed + 0.7 - 1.1 * seed for seed in range(count)]
    for differences in ([0.5] * count, rounded):
        assert paired(differences, choice).p_value == pytest.approx(stats.binomtest(0, count).pvalue)
    assert paired([0.0] * count, choice).p_value == 1


def test_ties_under_a_choice_that_is_as_large_as_they_are_say_no_more_than_t() -> None:
    assert paired([0.5] * 8, 0.5).p_value == pytest.approx(2 * stats.t.sf(1, 7))  # .35, and .008 by their signs


@pytest.mark.parametrize(("samples", "rate"), [(4, 0.5), (20, 0.9), (50, 0.98)])
@pytest.mark.parametrize("seeds", [4, 5])
def test_ties_of_a_coarse_metric_claim_nothing(samples: int, rate: float, seeds: int) -> None:
    """Accuracies of few samples: up to .038 of studies of five variants had a tie, each of which was a claim."""
    counts = np.random.default_rng(seeds).binomial(samples, rate, size=(2_000, 6, seeds)) / samples
    apart = counts[:, 1:] - counts[:, :1]
    ties = [study for study in apart if any(row.std() < 1e-12 and row.any() for row in study)]
    claimed = sum(min(holm([paired(list(row)).p_value for row in study])) < LEVEL for study in apart)
    assert claimed / len(apart) <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / len(apart))
    for each in ties:
        assert all(paired(list(row)).p_value >= 2 ** (1 - seeds) for row in each if row.std() < 1e-12)
    assert ties


def test_costs_that_are_counted_differ_for_certain() -> None:
    assert (
        {"parameters", "flops_total", "cache_bytes_8k", "prefill_flops"}
        <= COUNTED
        <= {each.name for each in fields(Cost)}
    )


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for raw, corrected in zip(p_values, adjusted, strict=True):
        assert raw <= corrected <= min(1, raw * len(p_values)) or math.isclose(raw, corrected)
    order = np.argsort(p_values, kind="stable")
    assert all(np.diff(np.array(adjusted)[order]) >= 0)


def test_the_bound_on_a_rate_never_seen_is_the_closed_form() -> None:
    for trials in (1, 5, 12):
        assert rate_bound(0, trials) == pytest.approx(1 - 0.05 ** (1 / trials))
    assert rate_bound(5, 5) == rate_bound(0, 0) == 1


def test_the_bound_is_the_rate_at_which_so_few_events_are_rare() -> None:
    assert stats.binom.cdf(2, 10, rate_bound(2, 10)) == pytest.approx(0.05)


def test_fisher_by_hand() -> None:
    # 2 of 5 against 0 of 5: both tails have probability C(5,2)/C(10,2) = 10/45.
    assert fisher(2, 5, 0, 5) == pytest.approx(20 / 45)


def test_correlation_needs_three_pairs_and_spread() -> None:
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation([1, 2], [2, 4]) is None
    assert correlation([1, 1, 1], [2, 4, 6]) is None


def test_equivalence_is_two_one_sided_tests() -> None:
    differences = [0.002, -0.003, 0.004, 0.001, -0.002]
    estimate = paired(differences)
    for margin in (0.001, 0.003, 0.0035, 0.01):
        above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
        assert estimate.equivalence_p(margin) == pytest.approx(max(above, below))
        for level in (0.05, 0.01):
            low, high = estimate.interval(1 - 2 * level)
            assert (estimate.equivalence_p(margin) < level) == (-margin < low and high < margin)


def test_ties_claim_no_equivalence() -> None:
    """Accuracies of 50 samples, .999 and .996 in truth, tie on four seeds in two fifths of studies."""
    draw = np.random.default_rng(5)
    margin, studies = 0.003, 400
    base, own = (draw.binomial(50, rate, (studies, 4)) / 50 for rate in (0.999, 0.996))
    tied = (np.ptp(own - base, axis=1) == 0).mean()
    assert tied > 0.3
    claimed = np.mean([paired(list(each)).equivalence_p(margin) < LEVEL for each in own - base])
    assert claimed <= LEVEL
    assert paired([0.0] * 4, 1e-4).equivalence_p(margin) == 1


def test_a_counted_cost_without_spread_is_inside_the_margin_for_certain() -> None:
    records = study({"relu": [1.0, 1.1, 1.2, 1.3], "gelu": [0.9, 1.2, 1.1, 1.3]})
    for record in records:
        record.cost = cost(record, parameters=1000 + 5 * (record.axes["activation"] == "gelu"))
    runs = runs_of(records)
    for margin, p in ((10.0, 0.0), (5.0, 1.0)):
        (item,) = compare(runs, metric="parameters", margin=margin).items
        assert item.p_equivalence == p
