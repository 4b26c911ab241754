"""What looking more than once does to a comparison, and the false claims that the rule allows, counted."""

from dataclasses import replace

import numpy as np
import pytest
from said import notes_of, sentence_of
from scipy import stats
from synthetic import runs_of, study

from ablab.analysis.comparison import Comparison, compare
from ablab.analysis.estimates import LEVEL, paired
from ablab.analysis.power import detectable
from ablab.analysis.shared_error import shared_p
from ablab.analysis.verdicts import Verdict
from ablab.results.interim import InterimAnalysis

BASE = [1.00, 1.02, 0.97, 1.05, 0.99]


def looks(count: int, seeds: int) -> tuple[InterimAnalysis, ...]:
    """So many looks that were not planned: all but the last, at the seeds at hand, at some of other seeds."""
    others = [tuple(range(100 * each, 100 * each + 3)) for each in range(1, count)]
    return tuple(
        InterimAnalysis(each, f"2026-01-{day:02}T00:00:00+00:00")
        for day, each in enumerate([*others, tuple(range(1, seeds + 1))], 1)
    )


def after(count: int, differences: list[float], margin: float | None = None, others: int = 0) -> Comparison:
    """The comparison of one variant, with `others` that differ a little, at the look of that number."""
    losses = {"relu": BASE[: len(differences)]}
    losses["gelu"] = [value + change for value, change in zip(BASE, differences, strict=False)]
    for other in range(others):
        wiggle = np.random.default_rng(other).normal(size=len(differences)) * 0.01
        losses[f"other{other}"] = list(np.array(losses["relu"]) + wiggle)
    runs = replace(runs_of(study(losses)), interim_analyses=looks(count, len(differences)))
    return compare(runs, margin=margin, margin_declared=True).items[0]


NEARLY = [0.03, 0.01, 0.04, 0.005, 0.055]  # p = .036: between the levels of one look and of two


def test_one_look_changes_nothing() -> None:
    assert after(0, NEARLY) == after(1, NEARLY)


def test_what_one_look_resolves_a_second_one_may_not() -> None:
    once, again = after(1, NEARLY), after(2, NEARLY)
    assert (once.verdict, again.verdict) == (Verdict.WORSE, Verdict.UNRESOLVED)
    assert once.p_adjusted is not None
    assert again.p_adjusted == pytest.approx(2 * once.p_adjusted)
    assert once.p_raw == again.p_raw
    assert "(95% CI " in sentence_of(once)
    assert "(97.5% CI " in sentence_of(again)


def test_three_seeds_that_tie_but_for_rounding_claim_nothing() -> None:
    item = after(1, [1.1] * 3, margin=2.0)
    assert len(set(item.differences)) > 1
    assert (item.verdict, item.p_adjusted) == (Verdict.UNRESOLVED, 0.25)


def test_the_interval_is_scipys_at_that_confidence() -> None:
    item = after(3, NEARLY)
    expected = stats.ttest_1samp(item.differences, 0).confidence_interval(1 - 0.05 / 3)
    assert item.interval == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_and_the_p_value_agree_at_every_number_of_looks(count: int, others: int, seeds: int) -> None:
    """With one comparison the interval excludes 0 exactly if p is below the level; at three seeds with more, too."""
    for scale in np.geomspace(0.001, 10, 8):
        noise = np.array([0.004, -0.003, 0.001, 0.002, -0.004])
        item = after(count, list(noise[:seeds] + 0.004 * scale), others=others)
        assert item.interval is not None
        assert item.p_adjusted is not None
        if others and seeds == 5:  # Holm's p and the plain interval are two conditions
            continue
        if abs(item.p_adjusted - LEVEL) > 2e-4 * count:
            assert (item.p_adjusted < LEVEL) == (item.interval[0] > 0), (item.p_adjusted, item.interval)


def test_three_seeds_take_the_shared_value_at_that_level() -> None:
    item = after(2, NEARLY[:3], others=3)
    assert item.adjustment == "simultaneous"
    assert item.interval is not None
    assert item.estimate is not None
    critical = (item.interval[1] - item.estimate.effect) / item.estimate.standard_error
    assert shared_p(critical, 2, (4,)) == pytest.approx(0.025)


def test_equivalence_is_claimed_at_that_level_too() -> None:
    differences = [0.002, -0.003, 0.004, 0.001, -0.002]
    verdicts = {}
    for count in (1, 2):
        for margin in (0.0032, 0.004, 0.0045):
            item = after(count, differences, margin)
            own = item.differences
            above = stats.ttest_1samp(own, -margin, alternative="greater").pvalue < 0.05 / count
            below = stats.ttest_1samp(own, margin, alternative="less").pvalue < 0.05 / count
            assert (item.verdict is Verdict.EQUIVALENT) == (above and below)
            verdicts[count, margin] = item.verdict
    assert verdicts[1, 0.0032] != verdicts[2, 0.0032]
    sentence = sentence_of(after(2, differences, 0.0045))
    assert sentence.startswith("|effect| < 0.0045 (declared margin; Holm p = .033): 95% CI ")
    assert "90% CI" in sentence_of(after(1, differences, 0.0045))
    estimate, (low, high) = paired(item.differences), item.equivalence_interval or (0.0, 0.0)
    assert (low, high) == pytest.approx(estimate.interval(0.95))


def test_a_resolved_effect_lies_within_the_margin_at_that_level() -> None:
    within = "Resolved, but within the declared margin"
    differences = [0.02, 0.0205, 0.0195, 0.02, 0.0198]
    margin = paired(differences).interval(0.93)[1]  # beyond 90%, the bound at one look, and within 95%, that at two
    said = [" ".join(notes_of(after(count, differences, margin))) for count in (1, 2)]
    assert [within in line for line in said] == [True, False]


def test_the_detectable_effect_and_the_seeds_needed_grow() -> None:
    once, again = (
        after(1, [0.01, -0.01, 0.02, 0.0, 0.01], 0.005),
        after(2, [0.01, -0.01, 0.02, 0.0, 0.01], 0.005),
    )
    assert again.estimate is not None
    shown = f"{detectable(again.estimate, 0.025):.3f}"
    assert f"Detectable here: {shown}." in sentence_of(again)
    assert f"Detectable here: {shown}." not in sentence_of(once)
    about = [int(sentence_of(item).split("about ")[1].split(" seeds")[0]) for item in (once, again)]
    assert about[0] < about[1]
