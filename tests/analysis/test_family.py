"""What looking more than once does to a comparison, and the false claims that the rule allows, counted."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from said import notes_of, sentence_of
from scipy import stats
from synthetic import runs_of, study

from ablab.analysis.comparison import Comparison, compare
from ablab.analysis.dunnett import dunnett_p
from ablab.analysis.estimates import LEVEL, holm, paired
from ablab.analysis.family import level_after
from ablab.analysis.power import detectable
from ablab.analysis.verdicts import Verdict
from ablab.results.interim import InterimAnalysis

SEEDS = (3, 5, 8, 10)  # at which the simulated studies are looked at
REPETITIONS = 20_000
BASE = [1.00, 1.02, 0.97, 1.05, 0.99]


def looks(*counts: int) -> tuple[InterimAnalysis, ...]:
    return tuple(InterimAnalysis(tuple(range(1, count + 1)), "2026-01-01T00:00:00+00:00") for count in counts)


def after(counts: Sequence[int], differences: list[float], margin: float | None = None, others: int = 0) -> Comparison:
    """The comparison of one variant, with `others` that differ a little, after looks at `counts` seeds."""
    losses = {"relu": BASE[: len(differences)]}
    losses["gelu"] = [value + change for value, change in zip(BASE, differences, strict=False)]
    for other in range(others):
        wiggle = np.random.default_rng(other).normal(size=len(differences)) * 0.01
        losses[f"other{other}"] = list(np.array(losses["relu"]) + wiggle)
    runs = replace(runs_of(study(losses)), interim_analyses=looks(*counts))
    return compare(runs, margin=margin, margin_declared=True).items[0]


NEARLY = [0.03, 0.01, 0.04, 0.005, 0.055]  # p = .036: between the levels of one look and of two


def test_the_level_is_divided_by_the_looks() -> None:
    assert [level_after(count) for count in (0, 1, 2, 4)] == [LEVEL, LEVEL, LEVEL / 2, LEVEL / 4]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((), None),
        ((3,), None),
        (
            (3, 5),
            "INTERIM ANALYSES  the study was analysed 2 times (3, then 5 seeds); each interval is at 97.5%, and p is "
            "held against .025, so that 2 analyses at this level keep 5% together.",
        ),
        (
            (3, 5, 8),
            "INTERIM ANALYSES  the study was analysed 3 times (3, 5, then 8 seeds); each interval is at 98.33%, and p "
            "is held against .0167, so that 3 analyses at this level keep 5% together.",
        ),
    ],
)
def test_readers_are_told_of_more_than_one_look(counts: tuple[int, ...], said: str | None) -> None:
    notes = notes_of(
        compare(replace(runs_of(study({"relu": BASE, "gelu": BASE[::-1]})), interim_analyses=looks(*counts)))
    )
    assert notes == (() if said is None else (said,))


def test_one_look_changes_nothing() -> None:
    assert after((), NEARLY) == after((5,), NEARLY)


def test_what_one_look_resolves_a_second_one_may_not() -> None:
    once, again = after((5,), NEARLY), after((3, 5), NEARLY)
    assert (once.verdict, again.verdict) == (Verdict.WORSE, Verdict.UNRESOLVED)
    assert once.p_adjusted == again.p_adjusted
    assert "(95% CI " in sentence_of(once)
    assert "(97.5% CI " in sentence_of(again)


def test_the_interval_is_scipys_at_that_confidence() -> None:
    item = after((1, 2, 5), NEARLY)
    expected = stats.ttest_1samp(item.differences, 0).confidence_interval(1 - 0.05 / 3)
    assert item.interval == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_and_the_p_value_agree_at_every_number_of_looks(count: int, others: int, seeds: int) -> None:
    """With one comparison the interval excludes 0 exactly if p is below the level; with more, Dunnett's does too."""
    for scale in np.geomspace(0.001, 10, 8):
        noise = np.array([0.004, -0.003, 0.001, 0.002, -0.004])
        item = after(range(1, count + 1), list(noise[:seeds] + 0.004 * scale), others=others)
        assert item.interval is not None
        assert item.p_adjusted is not None
        if others and seeds == 5:  # Holm's p and the plain interval are two conditions
            continue
        if abs(item.p_adjusted - 0.05 / count) > 2e-4:
            assert (item.p_adjusted < 0.05 / count) == (item.interval[0] > 0), (item.p_adjusted, item.interval)


def test_three_seeds_take_dunnetts_value_at_that_level() -> None:
    item = after((1, 3), NEARLY[:3], others=3)
    assert item.adjustment == "Dunnett"
    assert item.interval is not None
    assert item.estimate is not None
    critical = (item.interval[1] - item.estimate.effect) / item.estimate.standard_error
    assert dunnett_p(critical, item.estimate.degrees, (4,)) == pytest.approx(0.025, abs=1e-3)


def test_equivalence_is_claimed_at_that_level_too() -> None:
    differences = [0.002, -0.003, 0.004, 0.001, -0.002]
    verdicts = {}
    for count in (1, 2):
        for margin in (0.0032, 0.004, 0.0045):
            item = after(range(1, count + 1), differences, margin)
            own = item.differences
            above = stats.ttest_1samp(own, -margin, alternative="greater").pvalue < 0.05 / count
            below = stats.ttest_1samp(own, margin, alternative="less").pvalue < 0.05 / count
            assert (item.verdict is Verdict.EQUIVALENT) == (above and below)
            verdicts[count, margin] = item.verdict
    assert verdicts[1, 0.0032] != verdicts[2, 0.0032]
    sentence = sentence_of(after((3, 5), differences, 0.0045))
    assert sentence.startswith("|effect| < 0.0045 (declared margin; Holm p = .017): 95% CI ")
    assert "90% CI" in sentence_of(after((5,), differences, 0.0045))
    estimate, (low, high) = paired(item.differences), item.equivalence_interval or (0.0, 0.0)
    assert (low, high) == pytest.approx(estimate.interval(0.95))


def test_a_resolved_effect_lies_within_the_margin_at_that_level() -> None:
    within = "Resolved, but within the declared margin"
    differences = [0.02, 0.0205, 0.0195, 0.02, 0.0198]
    margin = paired(differences).interval(0.93)[1]  # beyond 90%, the bound at one look, and within 95%, that at two
    said = [" ".join(notes_of(after(counts, differences, margin))) for counts in ((5,), (3, 5))]
    assert [within in line for line in said] == [True, False]


def test_the_detectable_effect_and_the_seeds_needed_grow() -> None:
    once, again = (
        after((5,), [0.01, -0.01, 0.02, 0.0, 0.01], 0.005),
        after((3, 5), [0.01, -0.01, 0.02, 0.0, 0.01], 0.005),
    )
    assert again.estimate is not None
    shown = f"{detectable(again.estimate, 0.025):.3f}"
    assert f"Detectable here: {shown}." in sentence_of(again)
    assert f"Detectable here: {shown}." not in sentence_of(once)
    about = [int(sentence_of(item).split("about ")[1].split(" seeds")[0]) for item in (once, again)]
    assert about[0] < about[1]


def rate_of_false_claims(levels: Sequence[float]) -> float:
    """Of studies in which the variant does nothing, and that stop at the first look that is significant."""
    generator = np.random.default_rng(3)
    block = generator.normal(size=(REPETITIONS, 1, SEEDS[-1])) * math.sqrt(0.8)
    values = block + generator.normal(size=(REPETITIONS, 2, SEEDS[-1])) * math.sqrt(0.2)
    differences = values[:, 1] - values[:, 0]
    claimed = np.zeros(REPETITIONS, bool)
    for seeds, level in zip(SEEDS, levels, strict=True):
        claimed |= stats.ttest_1samp(differences[:, :seeds], 0, axis=1).pvalue < level
    return float(claimed.mean())


def near(rate: float) -> object:
    return pytest.approx(rate, abs=3 * math.sqrt(rate * (1 - rate) / REPETITIONS))


def test_stopping_when_it_is_significant_makes_false_claims() -> None:
    assert rate_of_false_claims([LEVEL] * 4) == near(0.136)


def test_looks_at_the_level_of_the_last_keep_the_rate() -> None:
    rate = rate_of_false_claims([level_after(4)] * 4)
    assert rate == near(0.040)
    assert rate < LEVEL


def test_stopping_at_the_first_that_resolves_costs_what_is_said_of_it() -> None:
    """Each look at its own level, the first of which does not know of the others: better than none, not `LEVEL`."""
    rate = rate_of_false_claims([level_after(look) for look in (1, 2, 3, 4)])
    assert rate == near(0.080)
    assert LEVEL < rate < sum(level_after(look) for look in (1, 2, 3, 4))


def test_holm_and_the_level_of_the_looks_keep_any_false_claim_of_five_variants() -> None:
    generator = np.random.default_rng(4)
    repetitions, levels = 600, level_after(len(SEEDS))
    wrong = 0
    for _ in range(repetitions):
        block = generator.normal(size=(1, SEEDS[-1])) * math.sqrt(0.8)
        table = block + generator.normal(size=(6, SEEDS[-1])) * math.sqrt(0.2)
        wrong += any(
            min(holm([paired(row[:seeds] - table[0, :seeds]).p_value for row in table[1:]])) < levels for seeds in SEEDS
        )
    assert wrong / repetitions <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / repetitions)
