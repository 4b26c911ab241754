"""Compute-equivalent gains over a ladder, and how sure they are."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
from climbing import BASELINE, COMPUTE, Law, findings, ladder
from numpy.typing import NDArray
from scipy import stats
from synthetic import cost
from tuned import told

from ablab.analysis.over_scale.gain import Gain

Array = NDArray[np.float64]


def test_the_gain_is_the_compute_that_the_baseline_would_need() -> None:
    twice: Law = lambda compute: BASELINE(2 * compute)  # noqa: E731
    records = ladder({"relu": BASELINE, "twice": twice}, noise=0.0005, shared=0.001)
    for item in records:
        if item.axes["activation"] == "twice":
            item.cost = cost(item, flops_total=int(1.25 * (item.cost.flops_total or 0)))
    gains = findings(records).items[0].gains
    assert gains is not None
    assert gains.slope is not None
    assert gains.slope.interval is not None
    assert gains.slope.interval[0] < 1 < gains.slope.interval[1]
    for gain, net in zip(gains.at, gains.net, strict=True):
        assert gain is not None
        assert gain.interval is not None
        assert gain.interval[0] < 2 < gain.interval[1]
        assert gain.factor == pytest.approx(2, rel=0.15)
        assert net is not None
        assert net.factor == pytest.approx(gain.factor / 1.25)


def test_a_variant_below_the_floor_has_no_gain() -> None:
    records = ladder({"relu": BASELINE, "free": lambda _: 0.2}, oracle={"floor": 1.0})
    found = findings(records)
    assert found.law is not None
    assert found.law.floor_known
    gains = found.items[0].gains
    assert gains is not None
    assert set(gains.at) == {None}


@pytest.mark.parametrize("effect", [-0.1, -0.005, 0.1])
def test_what_is_not_known_of_the_floor_widens_it_to_its_own_side(effect: float) -> None:
    """Two sizes say nothing of L_inf: the law goes through both for each, with an exponent that grows with it."""
    sizes = COMPUTE[:2]
    found = findings(
        ladder({"relu": BASELINE, "other": lambda flops: BASELINE(flops) + effect}, sizes, noise=1e-7, shared=0)
    )
    assert found.law is not None
    first, last = map(BASELINE, sizes)
    assert found.law.floor_range == pytest.approx((0, 0.995 * last))

    def gain(floor: float) -> float:
        alpha = math.log((first - floor) / (last - floor)) / math.log(sizes[1] / sizes[0])
        own = last + effect - floor
        return math.exp(math.log((last - floor) / own) / alpha) if own > 0 else math.inf

    gains = found.items[0].gains
    assert gains is not None
    at, slope = gains.at[-1], gains.slope
    assert at is not None
    assert at.interval is not None
    low, high = sorted(map(gain, found.law.floor_range))
    assert at.factor == pytest.approx(gain(0), rel=1e-4)
    assert at.interval[0] == pytest.approx(low, rel=1e-4)
    assert at.interval[1] == pytest.approx(high, rel=1e-4) if high < math.inf else at.interval[1] > 1e300
    assert slope is not None
    assert slope.interval is not None
    assert slope.interval[1] > 1e50 if high == math.inf else slope.interval[1] < 100  # for each tenfold, too


def test_a_baseline_below_an_end_of_the_floor_may_gain_nothing_at_all() -> None:
    """The law is of all runs of the baseline, a gain of those with a pair: they may be below what L_inf may be."""
    worse: Law = lambda flops: BASELINE(flops) + 0.1  # noqa: E731
    records = ladder({"relu": BASELINE, "worse": worse}, COMPUTE[:2], noise=1e-6, shared=0)
    last = records[-1].rung
    for item in records:
        if item.rung == last and item.seed == 3 and item.axes["activation"] == "relu":
            item.metrics["val_loss"] += 0.2
    without = [item for item in records if (item.rung, item.seed, item.axes["activation"]) != (last, 3, "worse")]
    found = findings(without)
    assert found.law is not None
    assert found.law.floor_range[1] > BASELINE(COMPUTE[1])
    gains = found.items[0].gains
    assert gains is not None
    at = gains.at[-1]
    assert at is not None
    assert at.interval is not None
    assert at.interval[0] < 1e-300
    assert at.interval[1] < 1


def test_a_gain_has_the_error_of_the_choice() -> None:
    """To first order that of the effect, over alpha and what is above the floor; the slope has the slope of these."""
    of = told({1e-3: [1.00, 1.03], 3e-3: [1.01, 1.00], 1e-2: [1.02, 1.04]}, 3e-3)
    plain, tuned = findings(ladder()).items[0], findings(ladder(tuning=of)).items[0]
    choice = [item.choice or 0.0 for item in tuned.climb.items]
    assert choice[2] > 0
    curve = findings(ladder()).law
    assert curve is not None
    assert plain.gains is not None
    assert tuned.gains is not None
    means = [fmean(item.baseline_values) + fmean(item.differences) for item in tuned.climb.items]
    added = [error / curve.alpha / (mean - curve.floor) for error, mean in zip(choice, means, strict=True)]
    added.append(float(np.polyfit(np.log10(COMPUTE), added, 1)[0]))
    before, after = ([*gains.at, gains.slope] for gains in (plain.gains, tuned.gains))
    for own, other, extra in zip(before, after, added, strict=True):
        wider = halves(other) ** 2 - halves(own) ** 2
        assert wider == pytest.approx((extra * float(stats.t.ppf(0.975, 3))) ** 2, rel=1e-6, abs=1e-12)


def halves(gain: Gain | None) -> Array:
    """What an interval holds of the logarithm to either side."""
    assert gain is not None
    assert gain.interval is not None
    low, high = gain.interval
    return np.log([gain.factor / low, high / gain.factor])
