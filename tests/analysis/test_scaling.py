"""Exponents of planted power laws, against closed forms, numpy's polyfit and scipy's regression."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from said import sentence_of
from scipy import stats
from synthetic import cost, ended, odd_runs, record, runs_of

from ablab.analysis.scaling import Exponent, scaling
from ablab.results.collect import Runs
from ablab.results.interim import InterimAnalysis
from ablab.results.record import Record

LENGTHS = (64, 128, 256, 512)


def timed(
    step_time_s: Callable[[str, int, int], float],
    options: Sequence[str] = ("full", "lsh"),
    lengths: Sequence[int] = LENGTHS,
    seeds: int = 5,
) -> list[Record]:
    """Runs of each attention, length and seed, of 100 steps of 64 tokens that take this long."""
    records = []
    for option, length, seed in itertools.product(options, lengths, range(1, seeds + 1)):
        made = record(seed, axes={"attention": option}, settings={"task": {"seq_len": length}})
        made.cost = cost(made, train_time_s=100 * step_time_s(option, length, seed), flops_per_step=1000 * length**2)
        records.append(made)
    return records


def noise(*key: Any) -> float:
    return math.exp(0.05 * float(np.random.default_rng([*map(int, key)]).normal()))


def only(runs: Runs, figure: str = "seconds_per_step") -> Exponent:
    (found,) = scaling(runs, figure, "seq_len")
    return found


def test_planted_exponents_are_recovered_for_each_series() -> None:
    power = {"full": 2.0, "lsh": 1.1}
    found = scaling(runs_of(timed(lambda a, n, _: 1e-6 * n ** power[a])), "seconds_per_step", "seq_len")
    assert [item.series for item in found] == ["attention=full", "attention=lsh"]
    assert [item.alpha for item in found] == pytest.approx([2.0, 1.1])
    assert [item.log_scale for item in found] == pytest.approx([math.log(1e-6)] * 2)
    assert [item.interval for item in found] == [pytest.approx((2.0, 2.0)), pytest.approx((1.1, 1.1))]
    assert {item.basis for item in found} == {"seeds"}


def test_looks_widen_the_interval() -> None:
    runs = runs_of(timed(lambda _, n, seed: n**1.5 * noise(n, seed), options=("full",)))
    once, twice = (
        only(runs),
        only(replace(runs, interim_analyses=(InterimAnalysis((1, 2, 3), ""), InterimAnalysis((1, 2, 3, 4, 5), "")))),
    )
    assert once.interval is not None
    assert twice.interval is not None
    widths = [high - low for low, high in (once.interval, twice.interval)]
    assert widths[1] / widths[0] == pytest.approx(stats.t.ppf(1 - 0.0125, 4) / stats.t.ppf(1 - 0.025, 4))
    assert "97.5% CI" in sentence_of(twice)


def test_the_interval_is_over_the_exponents_of_seeds() -> None:
    records = timed(lambda _, n, seed: n**1.5 * noise(n, seed), options=("full",))
    found = only(runs_of(records))
    slopes = [
        np.polyfit(np.log(LENGTHS), [math.log(n**1.5 * noise(n, seed)) for n in LENGTHS], 1)[0] for seed in range(1, 6)
    ]
    reference = stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
    assert found.alpha == pytest.approx(np.mean(slopes))
    assert found.interval == pytest.approx((reference.low, reference.high))
    assert sentence_of(found).startswith("language: seconds_per_step grows as seq_len^1.")
    assert "over 5 seeds" in sentence_of(found)


def test_two_points_by_hand() -> None:
    """Four times as long for twice the length: the exponent is 2."""
    found = only(runs_of(timed(lambda _, n, __: 4.0 if n == 128 else 1.0, ("full",), (64, 128), seeds=2)))
    assert found.alpha == pytest.approx(2.0)
    assert found.interval is None
    assert sentence_of(found) == (
        "language: seconds_per_step grows as seq_len^2.00 (2 values of seq_len, 2 seeds: no interval)."
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_take_the_interval_of_the_fit(seeds: int) -> None:
    found = only(runs_of(timed(lambda _, n, seed: n * noise(n, seed), ("full",), seeds=seeds)))
    means = [np.mean([n * noise(n, seed) for seed in range(1, seeds + 1)]) for n in LENGTHS]
    line = stats.linregress(np.log(LENGTHS), np.log(means))
    half = stats.t.ppf(0.975, 2) * line.stderr
    assert found.interval == pytest.approx((line.slope - half, line.slope + half))
    assert found.basis == "fit"
    assert "of the fit to 4 values" in sentence_of(found)


def test_what_is_counted_has_no_noise() -> None:
    found = only(runs_of(timed(lambda *_: 1.0, ("full",), seeds=1)), "flops_per_step")
    assert found.alpha == pytest.approx(2)
    assert found.interval == (found.alpha, found.alpha)
    assert sentence_of(found) == "language: flops_per_step grows as seq_len^2.00 (counted)."


def test_one_value_has_no_exponent() -> None:
    found = only(runs_of(timed(lambda *_: 1.0, ("full",), (256,))))
    assert (found.alpha, found.interval, found.log_scale) == (None, None, None)
    assert sentence_of(found) == "language: an exponent of seconds_per_step needs two values of seq_len (256 only)."


def test_a_seed_that_lacks_a_length_has_no_exponent_of_its_own() -> None:
    """Its slope would be that of another range, and these points do not lie on a straight line."""
    curved = timed(lambda _, n, __: n + n**2 / 100, ("full",))
    whole = only(runs_of(curved))
    curved[-1] = ended("failed", "out of memory", 5, axes=curved[-1].axes, settings={"task": {"seq_len": 512}})
    found = only(runs_of(curved))
    assert (whole.seeds, found.seeds) == (5, 4)
    assert found.alpha == pytest.approx(whole.alpha)


def test_what_has_no_logarithm_is_counted_and_said() -> None:
    records = timed(lambda *_: 1.0, ("full",))
    for item in records:
        item.metrics = {"val_accuracy": 50 / item.config["task"]["seq_len"] - 0.1 * (item.seed == 5)}
    found = only(runs_of(records), "val_accuracy")
    assert (found.left_out, found.seeds) == (1, 4)  # at 512, where there was no luck
    assert found.alpha == pytest.approx(-1.0)
    assert sentence_of(found).endswith("over 4 seeds; 1 run without a positive value left out).")


@pytest.mark.parametrize(
    ("figure", "alpha"), [("seconds_per_token", 1.0), ("peak_memory_bytes", 2.0), ("val_loss", -0.5)]
)
def test_any_figure_may_grow(figure: str, alpha: float) -> None:
    records = timed(lambda _, n, __: float(n) ** 2, ("full",))
    for item in records:
        length = item.config["task"]["seq_len"]
        item.cost = cost(item, tokens=100 * length, peak_memory_bytes=7 * length**2)
        item.metrics = {"val_loss": length**-0.5}
    assert only(runs_of(records), figure).alpha == pytest.approx(alpha)


def test_sizes_are_those_of_the_model_whatever_made_them() -> None:
    records = []
    for activation, width, layers, seed in itertools.product(("relu", "gelu"), (32, 64), (2, 4), (1, 2, 3)):
        made = record(seed, axes={"activation": activation}, settings={"model": {"d_model": width, "n_layers": layers}})
        parameters = width * width * layers
        made.cost = cost(made, parameters=parameters)
        made.metrics = {"val_loss": 5 * parameters ** (-0.1 if activation == "relu" else -0.2)}
        records.append(made)
    found = scaling(runs_of(records), "val_loss", "parameters")
    assert [item.series for item in found] == ["activation=relu", "activation=gelu"]
    assert [item.alpha for item in found] == pytest.approx([-0.1, -0.2])
    assert found[0].x == (2048, 4096, 8192, 16384)


def test_tasks_have_series_of_their_own() -> None:
    records = timed(lambda _, n, __: float(n), ("full",))
    for item in timed(lambda _, n, __: float(n) ** 2, ("full",)):
        item.axes = {**item.axes, "task": "vision"}
        records.append(item)
    found = scaling(runs_of(records), "seconds_per_step", "seq_len")
    assert [(item.series, round(item.alpha or 0, 6)) for item in found] == [("language", 1.0), ("vision", 2.0)]


@pytest.mark.parametrize("name", odd_runs())
def test_odd_runs_have_no_exponent_and_no_crash(name: str) -> None:
    for over in ("seq_len", "parameters"):
        for found in scaling(runs_of(odd_runs()[name]), "seconds_per_step", over):
            assert found.alpha is None
            assert "needs two values" in sentence_of(found)
