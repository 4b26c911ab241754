"""Interactions against a naive loop, planted ones, and what must not change them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from factorial import factorial
from hypothesis import given, settings
from hypothesis import strategies as st
from said import sentence_of
from scipy import stats
from synthetic import cost, odd_runs, record, runs_of, study

from ablab.analysis.baseline import choose_baseline
from ablab.analysis.estimates import holm
from ablab.analysis.interactions import Interactions, Missing, all_interactions, interactions
from ablab.analysis.notes import NoValue, SeedNotRun
from ablab.analysis.pairing import tasks
from ablab.report.study_sentences import pair_label
from ablab.results.collect import Runs
from ablab.results.interim import InterimAnalysis
from ablab.results.record import Record

AXES = {"attention": ["full", "lsh", "windowed"], "activation": ["relu", "gelu"], "position": ["learned", "rope"]}
PAIR = {"attention": ["full", "lsh"], "activation": ["relu", "gelu"]}
MAIN = {"full": 0.0, "lsh": 0.3, "windowed": -0.1, "relu": 0.0, "gelu": -0.2, "learned": 0.0, "rope": 0.05}


def noise(options: tuple[str, ...], seed: int) -> float:
    return float(np.random.default_rng([seed, *"".join(options).encode()]).normal() * 0.01)


def additive(*options: str | int) -> float:
    *names, seed = options
    return 2.0 + 0.02 * int(seed) + sum(MAIN[str(name)] for name in names)


def noisy(*options: str | int) -> float:
    names = tuple(str(option) for option in options[:-1])
    together = 0.1 if {"lsh", "gelu"} <= set(names) else 0.0
    return additive(*options) + noise(names, int(options[-1])) + together


def found(runs: Runs, metric: str = "val_loss") -> Interactions:
    return interactions(runs, tasks(runs)[0], metric, choose_baseline(runs))


def test_what_adds_up_has_no_interaction() -> None:
    result = found(runs_of(factorial(AXES, additive)))
    assert result.pairs == [("activation", "attention"), ("activation", "position"), ("attention", "position")]
    assert len(result.items) == 1 * 2 + 1 * 1 + 2 * 1
    assert all(item.differences == (0.0,) * 5 and item.p_adjusted == 1 for item in result.items)
    assert sentence_of(result) == (
        "0 of 5 interactions resolved, by Holm's p over all 5 interactions of the study: a family of its own, in which "
        "any false claim has at most the probability .05."
    )


def test_a_planted_interaction_is_recovered() -> None:
    def planted(attention: str, activation: str, position: str, seed: int) -> float:
        together = 0.25 + 0.001 * (seed - 3)  # .25 on average
        return additive(attention, activation, position, seed) + together * ((attention, activation) == ("lsh", "gelu"))

    result = found(runs_of(factorial(AXES, planted)))
    effects, resolved = result.matrix("attention", "activation")
    assert effects.loc["lsh", "gelu"] == pytest.approx(0.25, abs=1e-12)
    assert effects.loc["windowed", "gelu"] == 0
    assert resolved.loc["lsh", "gelu"]
    assert not resolved.loc["windowed", "gelu"]
    transposed, _ = result.matrix("activation", "attention")
    assert (effects == transposed.T).all(axis=None)
    assert [item.contexts for item in result.items if "lsh" in item.options] == [2, 2]


def naive(runs: Runs, factors: tuple[str, str], options: tuple[str, str], base: dict[str, str]) -> list[float]:
    """One pass over all runs for every number that is needed."""

    def value(chosen: dict[str, str], seed: int) -> float:
        return next(r.metrics["val_loss"] for r in runs.records if r.seed == seed and chosen.items() <= r.axes.items())

    other = next(name for name in AXES if name not in factors)
    (one, two), (a, b) = factors, options
    per_seed = []
    for seed in range(1, 6):
        per_context = []
        for setting in AXES[other]:
            with_b = value({one: a, two: b, other: setting}, seed) - value(
                {one: base[one], two: b, other: setting}, seed
            )
            without = value({one: a, two: base[two], other: setting}, seed)
            without -= value({one: base[one], two: base[two], other: setting}, seed)
            per_context.append(with_b - without)
        per_seed.append(fmean(per_context))
    return per_seed


def test_a_naive_loop_and_scipy_agree() -> None:
    runs = runs_of(factorial(AXES, noisy))
    base = {name: options[0] for name, options in AXES.items()}
    result = found(runs)
    raw = []
    for item in result.items:
        differences = naive(runs, item.factors, item.options, base)
        test = stats.ttest_1samp(differences, 0)
        raw.append(float(test.pvalue))
        assert item.differences == pytest.approx(differences, abs=1e-14)
        assert item.effect == pytest.approx(fmean(differences))
        assert item.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert item.p_value == pytest.approx(test.pvalue)
    assert [item.p_adjusted for item in result.items] == pytest.approx(holm(raw))
    assert [pair_label(item) for item in result.items if item.resolved] == ["activation=gelu and attention=lsh"]


def test_interactions_on_all_tasks_are_one_family() -> None:
    """Corrected on each task by itself, any of those on two tasks would be false in .10 of studies."""
    records = [
        replace_task(item, task)
        for task in ("copy", "recall")
        for item in factorial(AXES, lambda *given, task=task: noisy(*given) + noise((task, *given[:-1]), given[-1]))
    ]
    runs = runs_of(records)
    metrics = dict.fromkeys(tasks(runs), "val_loss")
    family = all_interactions(runs, metrics, choose_baseline(runs))
    raw = [item.p_value or 0.0 for each in family.values() for item in each.items]
    assert len(raw) == 10
    assert [item.p_adjusted for each in family.values() for item in each.items] == pytest.approx(holm(raw))
    assert {each.family for each in family.values()} == {10}
    assert "over all 10 interactions of the study" in sentence_of(family["copy"])
    alone = interactions(runs, "copy", "val_loss", choose_baseline(runs))
    assert all(
        (one.p_adjusted or 0) >= (other.p_adjusted or 0)
        for one, other in zip(family["copy"].items, alone.items, strict=True)
    )
    assert family["copy"].items != alone.items


def replace_task(item: Record, task: str) -> Record:
    item.axes["task"] = task
    return item


def test_the_sentence_names_interval_correction_and_seeds() -> None:
    planted = {1: 0.011, 2: 0.012, 3: 0.013, 4: 0.014}

    def loss(attention: str, activation: str, seed: int) -> float:
        return 1 + planted[seed] * ((attention, activation) == ("lsh", "gelu"))

    (item,) = found(runs_of(factorial(PAIR, loss, seeds=4))).items
    assert sentence_of(item) == (
        "activation=gelu and attention=lsh together: +0.0125 val_loss beyond the sum of their effects "
        "(95% CI +0.0104 to +0.0146; Holm p < .001), 4 seeds."
    )


def test_a_claim_is_held_against_the_adjusted_p() -> None:
    nearly = [0.03, 0.01, 0.04, 0.005, 0.055]  # p = .0395 by itself, and there are five interactions

    def loss(attention: str, activation: str, position: str, seed: int) -> float:
        together = nearly[seed - 1] * ((attention, activation) == ("lsh", "gelu"))
        return additive(attention, activation, position, seed) + together

    item = next(item for item in found(runs_of(factorial(AXES, loss))).items if item.options == ("gelu", "lsh"))
    assert item.p_value == pytest.approx(0.0395, abs=1e-4)
    assert item.p_value is not None
    assert item.p_adjusted == pytest.approx(5 * item.p_value)
    assert not item.resolved
    assert sentence_of(item).endswith("averaged over 2 settings of the other factors; not resolved.")


def test_three_seeds_are_preliminary_and_two_have_no_interval() -> None:
    (three,) = found(runs_of(factorial(PAIR, noisy, seeds=3))).items
    assert three.preliminary
    assert three.estimate is not None
    assert three.estimate.degrees == 2
    assert ", 3 seeds, preliminary" in sentence_of(three)
    two = found(runs_of(factorial(PAIR, noisy, seeds=2)))
    assert (two.items[0].interval, two.items[0].p_adjusted) == (None, None)
    assert sentence_of(two.items[0]).endswith("on 2 seeds; an interval needs 3 seeds.")
    assert sentence_of(two) == "No interaction has the 3 complete seeds that an interval needs."


def test_looks_make_it_stricter() -> None:
    runs = runs_of(factorial(PAIR, noisy))
    (once,) = found(runs).items
    look = InterimAnalysis((1, 2, 3), "2026-01-01T00:00:00+00:00")
    (twice,) = found(replace(runs, interim_analyses=(look, look))).items
    assert once.interval is not None
    assert twice.interval is not None
    assert once.estimate is not None
    assert twice.level == 0.025
    assert twice.interval == once.estimate.interval(0.975)
    assert "97.5% CI" in sentence_of(twice)


def test_what_a_planned_look_has_decided_stands() -> None:
    """Three seeds agree well; a later one does not, and the interval of the last look has both signs."""
    planted = [0.30, 0.31, 0.305, 0.2, 1.9, -0.4, 0.5, 0.1]

    def loss(attention: str, activation: str, seed: int) -> float:
        return 1 + 0.03 * seed + planted[seed - 1] * ((attention, activation) == ("lsh", "gelu"))

    plan = {"looks": [3, 5, 8, 10], "max": 10, "spending": "pocock"}
    made = [replace(each, planned_looks=plan) for each in factorial(PAIR, loss, seeds=8)]
    (item,) = found(runs_of(made)).items
    assert item.interval is not None
    assert item.interval[0] < 0 < item.interval[1]
    assert item.resolved
    assert sentence_of(item).endswith("8 seeds; decided at an earlier planned look.")
    assert "at most the probability .05." in sentence_of(found(runs_of(made)))


def test_a_cost_that_is_counted_interacts_for_certain() -> None:
    records = factorial(PAIR, noisy)
    for each in records:
        both = (each.axes["attention"], each.axes["activation"]) == ("lsh", "gelu")
        each.cost = cost(each, parameters=1000 + 100 * both)
    (item,) = found(runs_of(records), "parameters").items
    assert (item.effect, item.p_adjusted, item.resolved) == (100, 0.0, True)


def test_a_missing_cell_costs_its_seed_and_says_why() -> None:
    def loss(attention: str, activation: str, seed: int) -> float:
        return math.nan if (attention, activation, seed) == ("lsh", "gelu", 2) else noisy(attention, activation, seed)

    records = [
        r for r in factorial(PAIR, loss) if (r.axes["attention"], r.axes["activation"], r.seed) != ("lsh", "relu", 4)
    ]
    (item,) = found(runs_of(records)).items
    assert item.seeds == (1, 3, 5)
    diverged, not_run = item.missing
    assert isinstance(diverged.why, NoValue)
    assert (diverged.variant, diverged.why.seed) == ("activation=gelu,attention=lsh", 2)
    assert (diverged.why.status, diverged.why.reason) == ("diverged", "train_loss became nan at step 7")
    assert not_run == Missing("activation=relu,attention=lsh", SeedNotRun(4, by_baseline=False))


@pytest.mark.parametrize("more", [[], [record(axes={"attention": "lsh", "activation": "tanh", "position": "rope"})]])
def test_one_change_at_a_time_cannot_see_interactions(more: list[Any]) -> None:
    one_factor = [
        *study({"relu": [1.0, 1.1, 1.2], "gelu": [1.0, 1.1, 1.2]}),
        *study({"lsh": [1.3, 1.1, 1.2], "windowed": [1.3, 1.1, 1.2]}, axis="attention"),
    ]
    result = found(runs_of([*one_factor, *more]))
    assert not result.visible
    assert "cannot see interactions" in sentence_of(result)
    assert "design=factorial" in sentence_of(result)
    assert result.matrix("attention", "activation")[0].empty


def test_one_factor_has_nothing_to_interact_with() -> None:
    result = found(runs_of(study({"relu": [1.0] * 4, "gelu": [1.1] * 4})))
    assert not result.visible
    assert sentence_of(result).startswith("Fewer than two factors vary")


def test_only_contexts_with_all_four_count() -> None:
    records = [
        r for r in factorial(AXES, noisy) if set(r.axes.values()).isdisjoint({"rope"}) or "lsh" not in r.axes.values()
    ]
    contexts = {item.options: item.contexts for item in found(runs_of(records)).items}
    assert contexts == {("gelu", "lsh"): 1, ("gelu", "windowed"): 2, ("gelu", "rope"): 2, ("windowed", "rope"): 2}


def test_settings_that_one_option_has_go_with_it() -> None:
    records = [
        record(
            seed,
            noise((attention, str(window), activation), seed),
            axes={"attention": attention, "activation": activation},
            settings={"attention": {"window": window}} if window else {},
        )
        for attention, window in (("full", None), ("windowed", 8), ("windowed", 16))
        for activation in ("relu", "gelu")
        for seed in range(1, 5)
    ]
    runs = runs_of(records)
    assert runs.factors == ["activation", "attention", "attention.window"]
    assert [item.options for item in found(runs).items] == [
        ("gelu", "windowed,attention.window=8"),
        ("gelu", "windowed,attention.window=16"),
    ]


def test_crossed_settings_are_factors_like_axes() -> None:
    records = [
        record(seed, 1.0 + width * lr, settings={"model": {"d_model": width}, "optimizer": {"lr": lr}})
        for width, lr, seed in itertools.product((32, 64), (0.01, 0.03), range(1, 5))
    ]
    (item,) = found(runs_of(records)).items
    assert item.factors == ("model.d_model", "optimizer.lr")
    assert item.effect == pytest.approx((64 * 0.03 - 32 * 0.03) - (64 * 0.01 - 32 * 0.01))


@pytest.mark.parametrize("name", odd_runs())
def test_odd_runs_have_no_interaction_and_no_crash(name: str) -> None:
    runs = runs_of(odd_runs()[name])
    for task in tasks(runs):
        assert not interactions(runs, task, "val_loss", choose_baseline(runs)).visible


shifts = st.floats(-10, 10)


@settings(max_examples=20)
@given(st.lists(shifts, min_size=7, max_size=7), st.lists(shifts, min_size=5, max_size=5))
def test_main_effects_and_shifts_of_seeds_change_nothing(effects: list[float], per_seed: list[float]) -> None:
    moved = dict(zip(MAIN, effects, strict=True))

    def shifted(*options: str | int) -> float:
        return noisy(*options) + sum(moved[str(name)] for name in options[:-1]) + per_seed[int(options[-1]) - 1]

    before, after = (found(runs_of(factorial(AXES, loss))) for loss in (noisy, shifted))
    for one, other in zip(before.items, after.items, strict=True):
        assert other.differences == pytest.approx(one.differences, abs=1e-12)


def test_the_mean_of_the_last_evaluations() -> None:
    records = factorial(PAIR, noisy)
    for item in records:
        item.last = {"val_loss": [item.metrics["val_loss"] * item.seed, item.metrics["val_loss"]]}
    runs = runs_of(records)
    (final,) = interactions(runs, "language", "val_loss", choose_baseline(runs)).items
    (mean,) = interactions(runs, "language", "val_loss", choose_baseline(runs), last_k=2).items
    assert mean.differences == pytest.approx(
        [value * (1 + seed) / 2 for seed, value in zip(final.seeds, final.differences, strict=True)]
    )


def test_a_setting_that_some_runs_lack_is_a_dimension_where_its_group_is_no_factor() -> None:
    runs = runs_of(
        record(seed, axes={"activation": option}, settings={"optimizer": {"lr": 0.1, **beta}})
        for option in ("relu", "gelu")
        for beta in ({}, {"beta": 0.9})
        for seed in (1, 2, 3)
    )
    assert interactions(runs, "language", "val_loss", choose_baseline(runs)).factors == ("activation", "optimizer.beta")
