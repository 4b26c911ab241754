"""The analysis of variance against hand formulas, nested least squares, and designs that do not determine it."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
from factorial import factorial
from scipy import stats
from synthetic import ended, odd_runs, record, runs_of, study

from ablab.analysis.anova import anova
from ablab.analysis.pairing import tasks
from ablab.errors import UserError
from ablab.results.record import Record

A, B, SEEDS = ("full", "lsh", "windowed"), ("relu", "gelu"), 4
VALUES = np.random.default_rng(5).normal(size=(len(A), len(B), SEEDS)) + np.arange(SEEDS) + [[[0.0], [3.0]]]


def two_way() -> list[Record]:
    return factorial(
        {"attention": A, "activation": B}, lambda a, b, seed: VALUES[A.index(a), B.index(b), seed - 1], seeds=SEEDS
    )


def test_a_balanced_design_by_hand() -> None:
    """Sums of squares of means, as in any textbook: block, A, B, A:B and what is left."""
    grand = VALUES.mean()
    block = len(A) * len(B) * ((VALUES.mean((0, 1)) - grand) ** 2).sum()
    of_a = len(B) * SEEDS * ((VALUES.mean((1, 2)) - grand) ** 2).sum()
    of_b = len(A) * SEEDS * ((VALUES.mean((0, 2)) - grand) ** 2).sum()
    cells = SEEDS * ((VALUES.mean(2) - grand) ** 2).sum()
    residual = ((VALUES - grand) ** 2).sum() - block - cells
    expected = {
        "seed": (block, 3),
        "activation": (of_b, 1),
        "attention": (of_a, 2),
        "activation:attention": (cells - of_a - of_b, 2),
        "residual": (residual, 15),
    }
    table = anova(runs_of(two_way()), "language", "val_loss").table
    assert list(table["source"]) == list(expected)
    assert list(table["df"]) == [df for _, df in expected.values()]
    assert list(table["sum_sq"]) == pytest.approx([sum_sq for sum_sq, _ in expected.values()])
    for row, (sum_sq, df) in zip(table.to_dict("records")[:-1], list(expected.values())[:-1], strict=True):
        assert row["F"] == pytest.approx(sum_sq / df / (residual / 15))
        assert row["p"] == pytest.approx(stats.f.sf(row["F"], df, 15))
        assert row["partial_eta_sq"] == pytest.approx(sum_sq / (sum_sq + residual))
    assert table.iloc[-1][["F", "p", "partial_eta_sq"]].isna().all()


def residual_sum(y: np.ndarray, *factors: list[tuple[Any, ...]]) -> float:
    """Of a least-squares fit with an indicator column for each level of each factor."""
    columns = [[float(value == level) for value in factor] for factor in factors for level in dict.fromkeys(factor)]
    design = np.array(columns).T
    return float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())


def test_type_two_compares_nested_models_where_runs_are_missing() -> None:
    records = [item for place, item in enumerate(two_way()) if place not in (0, 5, 6, 17)]
    y = np.array([item.metrics["val_loss"] for item in records])
    seed, a, b, ab = (
        [tuple(get(item)) for item in records]
        for get in (
            lambda item: (item.seed,),
            lambda item: (item.axes["attention"],),
            lambda item: (item.axes["activation"],),
            lambda item: (item.axes["attention"], item.axes["activation"]),
        )
    )
    whole, no_interaction = residual_sum(y, seed, ab), residual_sum(y, seed, a, b)
    table = anova(runs_of(records), "language", "val_loss").table.set_index("source")["sum_sq"]
    assert table["residual"] == pytest.approx(whole)
    assert table["activation:attention"] == pytest.approx(no_interaction - whole)
    assert table["attention"] == pytest.approx(residual_sum(y, seed, b) - no_interaction)  # beside B, not A:B
    assert table["activation"] == pytest.approx(residual_sum(y, seed, a) - no_interaction)
    assert table["seed"] == pytest.approx(residual_sum(y, ab) - whole)


def test_an_interaction_without_all_combinations_is_left_out_and_named() -> None:
    records = [item for item in two_way() if (item.axes["attention"], item.axes["activation"]) != ("lsh", "gelu")]
    records[-1] = ended("diverged", "nan", SEEDS, axes=records[-1].axes)
    found = anova(runs_of(records), "language", "val_loss")
    assert list(found.table["source"]) == ["seed", "activation", "attention", "residual"]
    assert (found.not_crossed, found.confounded, found.left_out) == (("activation:attention",), (), 1)


def test_aliased_interactions_are_left_out_and_named() -> None:
    """Half of all combinations of three factors: each interaction is a main effect by another name."""
    two = {"attention": ("full", "lsh"), "activation": ("relu", "gelu"), "position": ("learned", "rope")}
    noise = iter(np.random.default_rng(0).normal(size=100))
    records = [
        item
        for item in factorial(two, lambda *_: float(next(noise)), seeds=3)
        if sum(levels.index(item.axes[axis]) for axis, levels in two.items()) % 2 == 0
    ]
    found = anova(runs_of(records), "language", "val_loss")
    assert list(found.table["source"]) == ["seed", "activation", "attention", "position", "residual"]
    assert found.confounded == ("activation:attention", "activation:position", "attention:position")
    assert (found.not_crossed, found.left_out) == ((), 0)


def test_names_that_a_formula_would_trip_over() -> None:
    noise = iter(np.random.default_rng(0).normal(size=100))
    records = [
        record(seed, float(next(noise)), axes={"activation": activation}, settings={"model": {"d_model": width}})
        for activation, width, seed in itertools.product(("ReLU²", "活性化 $x$ + 1"), (32, 64), (1, 2, 3))
    ]
    table = anova(runs_of(records), "language", "val_loss").table
    assert list(table["source"]) == ["seed", "activation", "model.d_model", "activation:model.d_model", "residual"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(1), record(2)], "no factor varies"),
        (study({"relu": [1.0], "gelu": [1.1]}), "one seed shows no noise"),
        (study({"relu": [1.0, 1.1], "gelu": [math.nan, math.nan]}), "no run with activation=gelu has finished"),
        (study({"relu": [1.0, 1.1], "gelu": [1.5, 1.6]}), "val_loss has no noise at all"),
        (study({"relu": [1.0, math.nan], "gelu": [math.nan, 1.6]}), "do not tell the effects of activation apart"),
        (
            [
                record(seed, seed / 7, axes={"activation": a, "attention": b})
                for a, b in (("relu", "full"), ("gelu", "lsh"))
                for seed in (1, 2, 3)
            ],
            "do not tell the effects of activation, attention apart",
        ),
        (study({"relu": [1.0, math.nan], "gelu": [1.2, 1.6]}), "no finished runs are left to estimate the noise"),
    ],
)
def test_designs_that_do_not_determine_it(records: list[Record], message: str) -> None:
    with pytest.raises(UserError, match=message):
        anova(runs_of(records), "language", "val_loss")


@pytest.mark.parametrize("name", odd_runs())
def test_odd_runs_are_refused_or_analysed(name: str) -> None:
    runs = runs_of(odd_runs()[name])
    for task in tasks(runs):
        try:
            said = ",".join(anova(runs, task, "val_loss").table["source"])
        except UserError as error:
            said = str(error)
        assert said.startswith(("seed,", f"ANOVA of {task}: "))


def test_without_statsmodels_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.formula.api", None)
    with pytest.raises(UserError, match=r"pip install 'ablab\[stats\]'"):
        anova(runs_of(two_way()), "language", "val_loss")


def test_the_mean_of_the_last_evaluations() -> None:
    records = two_way()
    for item in records:
        item.last = {"val_loss": [item.metrics["val_loss"] + item.seed**2, item.metrics["val_loss"]]}
    averaged = two_way()
    for item in averaged:
        item.metrics = {"val_loss": item.metrics["val_loss"] + item.seed**2 / 2}
    mean, same, final = (
        anova(runs_of(found), "language", "val_loss", last_k).table["sum_sq"].to_list()
        for found, last_k in ((records, 2), (averaged, 1), (records, 1))
    )
    assert mean == pytest.approx(same)
    assert mean[0] != pytest.approx(final[0])  # the seeds'
