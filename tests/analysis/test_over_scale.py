"""Ladders: what was planted is found again, at each size and beyond it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from climbing import BASELINE, COMPUTE, VARIANTS, Law, findings, ladder, law
from synthetic import cost, ended, runs_of, study

from ablab.analysis.comparison import compare
from ablab.analysis.over_scale.curve import fit
from ablab.analysis.over_scale.forecast import forecast
from ablab.analysis.over_scale.seen import Seen
from ablab.analysis.over_scale.study import LadderFindings, coverage, over_scale
from ablab.analysis.over_scale.verdicts import Claims, Missing, ScaleVerdict
from ablab.results.record import Cost, Metric, Record


@pytest.fixture(scope="module")
def found() -> LadderFindings:
    return findings(ladder())


def test_points_are_those_of_the_records(found: LadderFindings) -> None:
    assert [rung.flops for rung in found.ladder.rungs] == list(COMPUTE)
    whole = [point for point in found.ladder.points if not point.on_the_way]
    assert len(whole) == len(found.ladder.points) / 2 == len(VARIANTS) * len(COMPUTE) * 4
    halves = {point.flops for point in found.ladder.points if point.on_the_way}
    assert halves == {flops / 2 for flops in COMPUTE}
    assert found.ladder.task == "language"


def test_verdicts_are_those_that_were_planted(found: LadderFindings) -> None:
    verdicts = {item.climb.label: item.verdict for item in found.items}
    assert verdicts == {
        "better": ScaleVerdict.HOLDS,
        "faded": ScaleVerdict.FADES,
        "nothing": ScaleVerdict.UNKNOWN,
    }


def test_the_effect_ahead_is_that_of_the_law(found: LadderFindings) -> None:
    better = found.items[0]
    assert better.interval is not None
    assert better.interval[0] < -0.1 < better.interval[1]
    assert better.interval[1] - better.interval[0] < 0.05
    assert better.held_out is not None
    assert better.held_out.inside
    assert better.held_out.times == pytest.approx(4)


def test_a_law_without_noise_is_recovered() -> None:
    for floor, scale, alpha in ((1.0, 2.0, 0.2), (0.0, 3.0, 0.1), (1.7, 1.0, 0.5)):
        planted = law(floor, scale, alpha)
        curve = fit(COMPUTE, [[planted(flops)] * 3 for flops in COMPUTE])
        assert curve.floor == pytest.approx(floor, abs=2e-3)
        assert curve.alpha == pytest.approx(alpha, rel=0.01)
        assert curve.loss(np.array(COMPUTE)) == pytest.approx([planted(flops) for flops in COMPUTE], rel=1e-4)


def test_a_bad_run_moves_a_law_less_than_it_moves_the_mean() -> None:
    losses = [[BASELINE(flops)] * 5 for flops in COMPUTE]
    losses[2][0] *= 1.3
    curve = fit(COMPUTE, losses)
    assert curve.loss(np.array(COMPUTE)) == pytest.approx([BASELINE(flops) for flops in COMPUTE], rel=5e-3)


def test_a_floor_is_called_identified_only_where_it_is() -> None:
    random = np.random.default_rng(0)
    wide, narrow = np.geomspace(1e6, 1e15, 7), np.geomspace(1e9, 3e9, 5)
    planted = law(1.0, 2.0, 0.25)

    def seen(compute: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[list[float]]:
        return [[planted(flops) + float(random.normal(0, 0.004)) for _ in range(4)] for flops in compute.tolist()]

    known = fit(wide.tolist(), seen(wide))
    assert known.identified
    assert known.floor_range[0] <= 1.0 <= known.floor_range[1]
    assert not fit(narrow.tolist(), seen(narrow)).identified
    assert fit(narrow.tolist(), seen(narrow), floor=1.0).identified


def test_runs_that_stopped_early_are_no_part_of_what_a_size_costs() -> None:
    records = ladder({"relu": BASELINE, "better": lambda compute: BASELINE(compute) - 0.1})
    for item in records:
        if item.seed == 0:
            item.status = "diverged" if item.axes["activation"] == "relu" else "failed"
            item.cost = cost(item, flops_total=int((item.cost.flops_total or 0) / 100))
    found = findings(records)
    assert [rung.flops for rung in found.ladder.rungs] == list(COMPUTE)
    assert found.items[0].climb.cost == (1.0,) * len(COMPUTE)


def test_where_bigger_is_better_the_law_is_that_of_what_is_missing() -> None:
    laws: dict[str, Law] = {"relu": law(0.0, 0.5, 0.2), "better": lambda compute: 0.9 * law(0.0, 0.5, 0.2)(compute)}
    records = ladder(laws, shared=0.0, noise=0.001)
    for item in records:
        item.metrics = {"val_accuracy": 1 - item.metrics["val_loss"]}
        item.primary = Metric(name="val_accuracy", split="val", direction="max")
    found = findings(records)
    assert found.law is not None
    assert found.law.alpha == pytest.approx(0.2, rel=0.1)
    assert found.items[0].verdict is ScaleVerdict.HOLDS
    assert found.items[0].forecast is not None
    assert found.items[0].forecast.then > 0
    gains = found.items[0].gains
    assert gains is not None
    assert gains.at[-1] is not None
    assert gains.at[-1].factor == pytest.approx((1 / 0.9) ** (1 / 0.2), rel=0.2)


def test_conditions_that_differ_in_compute_are_a_ladder() -> None:
    found = findings(ladder(called=False))
    assert [rung.name for rung in found.ladder.rungs] == [f"model.d_model={16 * 2**place}" for place in range(5)]
    assert found.ladder.task == "language"


def test_what_is_no_ladder_is_none() -> None:
    plain = runs_of(study({"relu": [1.0, 1.1, 1.2], "gelu": [1.1, 1.2, 1.3]}))
    same_compute = runs_of(ladder(compute=(1e9,) * 4, called=False))
    for runs in (plain, same_compute):
        assert over_scale(runs, compare(runs)) == ()


def _of(records: list[Record], name: str = "better") -> tuple[ScaleVerdict, Missing | None]:
    (item,) = [item for item in findings(records).items if item.climb.label == name]
    return item.verdict, item.missing


def test_what_is_missing_is_named() -> None:
    unknown = ScaleVerdict.UNKNOWN
    assert _of(ladder(compute=COMPUTE[:2])) == (unknown, Missing(rungs=2))
    assert _of(ladder(seeds=2)) == (unknown, Missing(seeds=2))
    same = {"relu": BASELINE, "better": BASELINE}
    assert _of(ladder(same, noise=0.0)) == (unknown, Missing(same=True))


def test_runs_that_diverged_or_are_missing() -> None:
    records = ladder()
    spoilt = [item for item in records if item.axes["activation"] == "better" and item.rung == "d_model=64"]
    lost = [item for item in records if item is not spoilt[0]]
    assert _of(lost)[0] is ScaleVerdict.HOLDS
    bad = spoilt[0]
    gone = ended("diverged", "nan", bad.seed, axes=bad.axes, rung=bad.rung, ladder=bad.ladder, config=bad.config)
    assert _of([gone if item is bad else item for item in records]) == (
        ScaleVerdict.UNKNOWN,
        Missing(diverged=("d_model=64", 1, 4)),
    )
    without = [item for item in records if item not in spoilt]
    (item,) = [item for item in findings(without).items if item.climb.label == "better"]
    assert item.climb.missing == ("d_model=64",)
    assert item.verdict is ScaleVerdict.HOLDS


def test_nothing_is_foreseen_of_what_failed_at_the_largest_size() -> None:
    largest = "d_model=256"
    at_largest = [item for item in ladder() if item.axes["activation"] == "better" and item.rung == largest]
    rest = [item for item in ladder() if item.axes["activation"] != "better" or item.rung != largest]
    gone = [
        ended("diverged", "nan", bad.seed, axes=bad.axes, rung=bad.rung, ladder=bad.ladder, config=bad.config)
        for bad in at_largest
    ]
    assert _of([*rest, *gone]) == (ScaleVerdict.UNKNOWN, Missing(diverged=(largest, 4, 4)))
    for few in ([], at_largest[:2]):
        assert _of([*rest, *few]) == (ScaleVerdict.UNKNOWN, Missing(largest=largest))


def test_a_size_at_which_every_run_of_the_baseline_failed_is_none_of_the_ladder() -> None:
    records = ladder()
    for bad in records:
        if bad.rung == "d_model=32" and bad.axes["activation"] == "relu":
            bad.status, bad.reason, bad.metrics, bad.cost = "failed", "out of memory", {}, Cost()
    found = findings(records)
    assert [rung.name for rung in found.ladder.rungs] == [f"d_model={width}" for width in (16, 64, 128, 256)]
    assert found.items[0].verdict is ScaleVerdict.HOLDS


def test_differences_that_never_vary_have_a_forecast() -> None:
    """As those of a cost that is counted do, or of a metric at its best and at its worst."""
    records = ladder({"relu": BASELINE, "gelu": BASELINE})
    for record in records:
        record.cost = cost(record, parameters=1000 + 500 * (record.axes["activation"] == "gelu"))
    runs = runs_of(records)
    (item,) = over_scale(runs, compare(runs, metric="parameters"))[0].items
    assert item.verdict is ScaleVerdict.HOLDS
    assert item.forecast is not None
    assert item.forecast.then == pytest.approx(500, rel=1e-3)


def test_ties_at_all_sizes_are_no_surer_than_their_signs() -> None:
    tied, none = [1 / 64] * 3, [0.0] * 3
    for differences, p in (([none, tied, tied], 2**-5), ([tied, tied, tied], 2**-8)):
        seen = Seen.of(np.log(COMPUTE[:3]), differences)
        assert Claims.of(forecast(seen, math.log(10 * COMPUTE[2]))).holds == pytest.approx(p)


def test_sizes_of_one_compute_are_one_size() -> None:
    records = ladder()
    for record in records:
        record.cost = cost(record, flops_total=10**9)
    assert _of(records) == (ScaleVerdict.UNKNOWN, Missing(rungs=1))


def test_small_units_change_no_interval() -> None:
    def ahead(unit: float) -> tuple[float, float]:
        records = ladder()
        for record in records:
            record.metrics = {"val_loss": record.metrics["val_loss"] * unit}
        (low, high) = findings(records).items[0].interval or (math.nan, math.nan)
        return low / unit, high / unit

    assert ahead(1e-9) == pytest.approx(ahead(1.0), rel=1e-3)


def test_an_effect_that_turns_round() -> None:
    for where, expected in ((3e11, ScaleVerdict.REVERSES), (1e10, ScaleVerdict.HOLDS)):
        crossing: Law = lambda compute, where=where: BASELINE(compute) + 0.1 * math.log10(compute / where)  # type: ignore[misc]  # noqa: E731
        verdict, _ = _of(ladder({"relu": BASELINE, "better": crossing}))
        assert verdict is expected


def test_of_a_look_that_is_held_against_less_the_verdicts_are_fewer() -> None:
    runs = runs_of(ladder({"relu": BASELINE, "better": lambda compute: BASELINE(compute) - 0.012}, noise=0.005))
    made = compare(runs)
    (usual,), (strict,) = (over_scale(runs, dataclasses.replace(made, level=level)) for level in (0.05, 1e-6))
    assert usual.items[0].verdict is ScaleVerdict.HOLDS
    assert strict.items[0].verdict is ScaleVerdict.UNKNOWN


def test_the_largest_size_is_counted_as_a_test(found: LadderFindings) -> None:
    covered = coverage([found])
    assert covered is not None
    assert covered.count == len(VARIANTS) - 1
    low, high = covered.interval
    assert low <= covered.inside / covered.count <= high
    assert coverage([findings(ladder(compute=COMPUTE[:3]))]) is None
