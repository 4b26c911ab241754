"""The sentences of the verdicts, word for word, from numbers made to give them."""

import math
from typing import Any

import pytest

from ablab.analysis.estimates import Estimate
from ablab.analysis.looks import Looks
from ablab.analysis.second_opinion import SecondOpinion
from ablab.analysis.verdicts import Evidence, Verdict, judge
from ablab.report.sentences import sentence as sentence_of


def evidence(**changes: Any) -> Evidence:
    values: dict[str, Any] = {
        "label": "swiglu",
        "overrides": "activation=swiglu",
        "metric": "val_loss",
        "direction": "min",
        "planned": 12,
        "differences": (-0.0452,) * 12,
        "ended": 12,
        "diverged": 0,
        "baseline_ended": 12,
        "baseline_diverged": 0,
        "estimate": Estimate(effect=-0.04516, standard_error=0.00225, degrees=11, pairs=12),
        "interval": (-0.0501, -0.0402),
        "p_adjusted": 1e-6,
        "adjustment": "Holm",
        "correlation": 0.9,
    }
    return Evidence(**{**values, **changes})


def judged(evidence: Evidence) -> tuple[Verdict, str]:
    verdict = judge(evidence)
    return verdict, sentence_of(evidence, verdict)


def preliminary(**changes: Any) -> Evidence:
    """Three seeds, whose standard error has 8 degrees of freedom here."""
    estimate = Estimate(effect=-0.0252, standard_error=0.01006, degrees=8, pairs=3)
    values: dict[str, Any] = {
        "label": "relu",
        "planned": 3,
        "differences": (-0.02, -0.03, -0.0256),
        "ended": 3,
        "estimate": estimate,
        "interval": estimate.around(3.023),
        "p_adjusted": 0.106,
        "adjustment": "simultaneous",
        "margin": 0.010,
    }
    return evidence(**{**values, **changes})


def test_better() -> None:
    verdict, sentence = judged(evidence())
    assert verdict is Verdict.BETTER
    assert sentence == (
        "swiglu lowers val_loss by 0.0452 (95% CI 0.0402 to 0.0501; Holm p < .001); 12/12 seeds, r = .90; "
        "diverged 0/12 (true rate may be up to 22%)."
    )


def test_an_interval_of_all_that_spans_zero_keeps_its_signs() -> None:
    """What Holm's method resolves at a later step, and what an earlier look has decided."""
    said = evidence(p_adjusted=0.031, intervals="simultaneous", simultaneous=(-0.0766, 0.0053))
    verdict, sentence = judged(said)
    assert verdict is Verdict.BETTER
    assert "lowers val_loss by 0.045 (simultaneous 95% CI -0.077 to +0.005; Holm p = .031)" in sentence
    looks = Looks(((0, 1, 2), (0, 1, 2, 3)), now=1, planned=(3, 4), most=4)
    assert "(95% CI -0.051 to +0.021; " in judged(evidence(looks=looks, interval=(-0.051, 0.021)))[1]


def test_worse_where_higher_is_better() -> None:
    verdict, sentence = judged(evidence(direction="max"))
    assert verdict is Verdict.WORSE
    assert sentence.startswith("swiglu lowers val_loss by ")


def test_three_seeds_are_preliminary() -> None:
    resolved = preliminary(interval=(-0.05, -0.01), p_adjusted=0.012)
    assert "; simultaneous p = .012); 3/3 seeds, preliminary, r = .90;" in judged(resolved)[1]


def test_unresolved() -> None:
    verdict, sentence = judged(preliminary())
    assert verdict is Verdict.UNRESOLVED
    # The published example has "(14 to 90)", by the pooled spread alone; the smaller one of its own takes in fewer.
    assert sentence == (
        "relu: -0.025 (95% CI -0.056 to +0.005; adj. p = .11), 3 seeds, preliminary. Detectable here: 0.032. "
        "Resolving 0.010 needs about 26 seeds (3 to 90)."
    )


@pytest.mark.parametrize(
    ("effect", "choice", "expected"),
    [
        (
            0.15,
            0.014,
            "Not even 10,000 seeds resolve 0.010: choosing by tuning has a standard error of 0.014, which more "
            "tune.seeds make smaller. An effect as large as the one seen would need about 5 seeds.",
        ),
        (0.009, 0.014, "which more tune.seeds make smaller."),  # no larger than the margin
        (0.15, 0.1, "which more tune.seeds make smaller."),  # nor do seeds resolve the one seen
        (0.15, 0.001, " Resolving 0.010 needs "),
    ],
)
def test_what_choosing_hides(effect: float, choice: float, expected: str) -> None:
    estimate = Estimate(effect, standard_error=math.hypot(0.036, choice), degrees=3, pairs=4, choice=choice)
    values = {"estimate": estimate, "interval": estimate.interval(), "differences": (effect,) * 4}
    sentence = judged(evidence(**values, p_adjusted=0.1, margin=0.01))[1]
    assert expected in sentence
    assert ("Not even" in sentence) == (choice > 0.01)
    assert ("An effect as large" in sentence) == ("as large" in expected)


def test_equivalent_needs_a_declared_margin() -> None:
    estimate = Estimate(effect=0.001, standard_error=0.0023, degrees=4, pairs=5)
    values = {"estimate": estimate, "interval": estimate.interval(), "p_adjusted": 0.7, "differences": (0.001,) * 5}
    shown = {**values, "margin": 0.010, "p_equivalence": 0.012}
    verdict, sentence = judged(evidence(**shown, margin_declared=True))
    assert verdict is Verdict.EQUIVALENT
    assert sentence == "|effect| < 0.010 (declared margin; Holm p = .012): 90% CI -0.004 to +0.006."
    afterwards = judged(evidence(**shown))[1]
    assert afterwards == "|effect| < 0.010 (margin given after the runs; Holm p = .012): 90% CI -0.004 to +0.006."
    assert judged(evidence(**{**shown, "p_equivalence": 0.06}))[0] is Verdict.UNRESOLVED
    assert judged(evidence(**values))[0] is Verdict.UNRESOLVED


def test_unstable() -> None:
    verdict, sentence = judged(evidence(ended=5, diverged=2, baseline_ended=5, differences=(0.1, 0.2, 0.3)))
    assert verdict is Verdict.UNSTABLE
    assert sentence == "2/5 diverged (baseline 0/5, Fisher p = .44); effect conditional on 3 pairs; not ranked."


def test_a_baseline_that_diverged_makes_the_effect_conditional() -> None:
    sentence = judged(evidence(baseline_ended=14, baseline_diverged=2))[1]
    assert sentence.endswith("; baseline diverged 2/14 against 0/12 (Fisher p = .48): conditional on convergence.")


def test_an_equivalent_effect_and_none_at_all_are_conditional_too() -> None:
    flat = Estimate(effect=0.001, standard_error=0.0023, degrees=4, pairs=5)
    rates: dict[str, Any] = {"ended": 8, "baseline_ended": 8, "baseline_diverged": 2}
    inside = {"margin": 0.010, "p_equivalence": 0.012, "interval": (-0.01, 0.01), "p_adjusted": 0.7}
    verdict, sentence = judged(evidence(estimate=flat, **rates, **inside))
    assert verdict is Verdict.EQUIVALENT
    assert sentence.endswith("; baseline diverged 2/8 against 0/8 (Fisher p = .47): conditional on convergence.")
    without = evidence(differences=(), estimate=None, ended=5, baseline_ended=5, baseline_diverged=5, planned=5)
    assert "(5 seeds planned); baseline diverged 5/5 against 0/5 (Fisher p = .008: " in judged(without)[1]


def test_who_diverges_less_often_is_not_unstable_and_that_is_said() -> None:
    fewer = evidence(ended=5, diverged=1, baseline_ended=5, baseline_diverged=4, p_divergence=0.21)
    assert judged(fewer)[0] is Verdict.BETTER
    assert judged(evidence(ended=5, diverged=1, baseline_ended=5, baseline_diverged=1))[0] is Verdict.UNSTABLE
    never = evidence(ended=20, baseline_ended=20, baseline_diverged=8, p_divergence=0.0033)
    said = "; baseline diverged 8/20 against 0/20 (Fisher p = .003: swiglu DIVERGES LESS OFTEN): conditional on"
    assert said in judged(never)[1]
    more = evidence(ended=20, diverged=8, baseline_ended=20, p_divergence=0.0033)
    assert "8/20 diverged (baseline 0/20, Fisher p = .003: swiglu DIVERGES MORE OFTEN)" in judged(more)[1]


def test_a_second_opinion_that_differs_is_in_the_line() -> None:
    doubted = SecondOpinion(median=-0.051, p_shared=0.21, shared_sd=0.31)
    assert judged(evidence(second=doubted))[1].endswith(
        ". RESTS ON ITS OWN SPREAD: with that of all comparisons on the task (sd 0.3100, its own 0.0078) p = .21; its "
        "median is -0.0510."
    )
    assert "SPREAD" not in judged(evidence(second=SecondOpinion(median=-0.05, p_shared=0.01, shared_sd=0.01)))[1]
    # Of several looks p knows already, as the p of the verdict does: it is held against the level of the study.
    shared = SecondOpinion(median=-0.05, p_shared=0.03, shared_sd=0.01)
    assert "SPREAD" not in judged(evidence(second=shared, level=0.025))[1]
    hidden = evidence(
        differences=(*[-0.02] * 11, 0.4),
        p_adjusted=0.4,
        interval=(-0.1, 0.14),
        second=SecondOpinion(-0.02, p_sign=0.006),
    )
    said = "BY SIGNS it is resolved: 11 of 12 seeds agree (p = .006), median -0.020; few seeds stand against the rest."
    assert said in judged(hidden)[1]


def test_no_effect_on_the_model() -> None:
    verdict, sentence = judged(evidence(overrides="schedule=plateau", identical=True, differences=(0.0,) * 5))
    assert verdict is Verdict.NO_EFFECT
    assert sentence == (
        "schedule=plateau never changed a final metric, to the last bit, on 5 seeds; "
        "this variant is the baseline under another name."
    )


@pytest.mark.parametrize("differences", [(-0.025,), (-0.025, 0.010)])
def test_too_few_seeds_show_the_values(differences: tuple[float, ...]) -> None:
    verdict, sentence = judged(
        evidence(differences=differences, estimate=None, interval=None, p_adjusted=None, correlation=None)
    )
    assert verdict is Verdict.TOO_FEW_SEEDS
    assert "-0.025" in sentence
    assert "an interval needs 3 seeds" in sentence


def test_nothing_to_pair() -> None:
    verdict, sentence = judged(evidence(differences=(), estimate=None, interval=None, p_adjusted=None, planned=3))
    assert verdict is Verdict.NO_PAIRS
    assert sentence == (
        "swiglu: no seed has val_loss from both this variant and the baseline (3 seeds planned); see the run health."
    )


def test_the_sentences_name_the_confidence_of_their_intervals() -> None:
    strict = {"level": 0.025, "looks": Looks(((0, 1, 2), (0, 1, 2, 3, 4)), now=1)}
    assert "(97.5% CI 0.0402 to 0.0501; Holm p < .001)" in judged(evidence(**strict))[1]
    assert "(97.5% CI -0.056 to +0.005; adj. p = .11)" in judged(preliminary(**strict))[1]
    assert "(98.33% CI " in judged(evidence(level=0.05 / 3))[1]
    flat = {"estimate": Estimate(effect=0.001, standard_error=0.0023, degrees=4, pairs=5), "p_adjusted": 0.7}
    equivalent = {"margin": 0.010, "margin_declared": True, "p_equivalence": 0.012}
    sentence = judged(evidence(**strict, **flat, **equivalent, interval=(-0.01, 0.01)))[1]
    assert sentence == "|effect| < 0.010 (declared margin; Holm p = .012): 95% CI -0.005 to +0.007."


def test_an_effect_without_spread_promises_nothing() -> None:
    flat = Estimate(effect=0.0, standard_error=0.0, degrees=4, pairs=5)
    verdict, sentence = judged(evidence(estimate=flat, interval=(0.0, 0.0), p_adjusted=1.0, differences=(0.0,) * 5))
    assert verdict is Verdict.UNRESOLVED
    assert "Resolving" not in sentence
    assert not math.isnan(flat.sd)
