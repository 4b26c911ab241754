"""What pairing earns and how much of the rest is chaos, against sums done by hand and over generated studies."""

import numpy as np
import pytest
from curved import Curved
from synthetic import record, runs_of, study

from ablab.analysis.baseline import Baselines
from ablab.analysis.chaos import chaos_share
from ablab.analysis.comparison import compare
from ablab.analysis.earned import earned_by_step, saving, spaced
from ablab.report.study_notes import pairing_text
from ablab.results.collect import Runs

LUCK = np.array([0.3, -0.2, 0.1, 0.4, -0.1, 0.0])


def test_the_saving_is_one_over_one_minus_r_where_both_vary_alike() -> None:
    random = np.random.default_rng(0)
    for r in (-0.5, 0.0, 0.34, 0.9):
        pairs = random.multivariate_normal([1, 2], [[1, r], [r, 1]], 200_000)
        assert saving(pairs[:, 0], pairs[:, 1]) == pytest.approx(1 / (1 - r), rel=0.03)


def test_the_saving_is_of_seeds_where_one_varies_more() -> None:
    own = 3 * LUCK + np.array([0.1, -0.1, 0.1, -0.1, 0.1, -0.1])
    expected = (own.var() + LUCK.var()) / (own - LUCK).var()
    assert saving(own, LUCK) == pytest.approx(expected)
    assert expected < 1 / (1 - np.corrcoef(own, LUCK)[0, 1])  # which a correlation alone would promise


@pytest.mark.parametrize(("own", "base"), [([1.0, 2.0], [1.0, 2.0]), ([1.0] * 4, [2.0] * 4)])
def test_no_saving_of_too_few_seeds_or_without_spread(own: list[float], base: list[float]) -> None:
    assert saving(own, base) is None


def test_pairs_at_each_step_that_all_have() -> None:
    curved = Curved()
    steps = (10, 20, 40)
    apart = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    for seed, luck in enumerate(LUCK):
        curved.add("relu", seed, [2 + luck] * 3, steps)
        curved.add("gelu", seed, [2 + luck, 2 + luck + 0.1 * apart[seed], 2 + apart[seed]], steps)
        if seed < 2:
            curved.add("silu", seed, [2.0] * 3, steps)
    runs = curved.runs
    found = earned_by_step(runs, runs.tasks[0], "val_loss", Baselines("activation=relu"), curved.reader)
    assert list(found) == ["activation=gelu"]  # not of two seeds
    assert [point.step for point in found["activation=gelu"]] == [10, 20, 40]
    for point, own in zip(found["activation=gelu"], (LUCK, LUCK + 0.1 * apart, apart), strict=True):
        assert point.correlation == pytest.approx(np.corrcoef(own, LUCK)[0, 1])
        assert point.sd == pytest.approx((own - LUCK).std(ddof=1))
        assert point.chaos is None


@pytest.mark.parametrize("number", [1, 4, 5, 6, 50, 1000])
def test_steps_that_are_shown_include_the_first_and_the_last(number: int) -> None:
    steps = [10 * (place + 1) for place in range(number)]
    shown = spaced(steps)
    assert min(number, 4) <= len(shown) <= 5
    assert {steps[0], steps[-1]} <= set(shown) <= set(steps)
    assert shown == sorted(shown)


def test_the_share_of_chaos_is_that_of_the_variances() -> None:
    """Simulated as the definition says: both arms with their own chaos, and an interaction with the seed."""
    random = np.random.default_rng(1)
    seeds = 100_000
    for c, own in ((0.2, 0.0), (0.1, 0.2), (0.01, 0.4)):
        seed_effect, base, again, variant = random.normal(size=(4, seeds))
        baseline = seed_effect + c * base
        found = chaos_share(seed_effect * (1 + own) + c * variant - baseline, seed_effect + c * again - baseline)
        assert found is not None
        assert found.share == pytest.approx(2 * c**2 / (own**2 + 2 * c**2), rel=0.03)
        assert found.interval[0] < found.share < found.interval[1]


def test_the_interval_of_the_share_of_chaos_holds_it() -> None:
    random = np.random.default_rng(2)
    held = 0
    for _ in range(2000):
        seed_effect, base, again, variant = random.normal(size=(4, 5))
        found = chaos_share(0.5 * seed_effect + variant - base, again - base)
        assert found is not None
        held += found.interval[0] <= 2 / 2.25 <= found.interval[1]
    assert held >= 0.93 * 2000


def test_too_few_runs_say_nothing_of_chaos() -> None:
    assert chaos_share([0.1, 0.2, 0.3], [0.1, 0.2]) is None
    assert chaos_share([0.1, 0.1, 0.1], [0.1, 0.2, 0.1]) is None


def said_of(runs: Runs) -> str:
    earned = compare(runs).earned
    assert earned is not None
    return pairing_text(earned)


def test_a_comparison_says_once_what_its_pairs_earned() -> None:
    base = [1 + value for value in LUCK]
    half = [value + 0.1 * (-1) ** place for place, value in enumerate(base)]
    runs = runs_of(study({"relu": base, "gelu": half, "copy": base}))
    said = said_of(runs)
    expected = np.corrcoef(base, half)[0, 1]
    assert f"r = {expected:.2f}".replace("0.", ".") in said  # the copy is no comparison
    assert "times as many seeds" in said
    assert "Rounding" not in said


def test_without_seeds_that_tell_nothing_is_said_of_pairing() -> None:
    runs = runs_of(study({"relu": [1.0, 1.1], "gelu": [1.0, 1.2]}))
    assert compare(runs).earned is None


def test_runs_that_are_the_baseline_but_for_rounding_tell_of_chaos() -> None:
    base = [1 + value for value in LUCK]
    apart, alone = [0.2, -0.2, 0.2, -0.2, 0.2, -0.2], [0.1, -0.1, 0.05, 0.1, -0.1, 0.05]
    records = study({"relu": base, "gelu": [value + own for value, own in zip(base, apart, strict=True)]})
    for kind, scale in (("order", 5.0), ("nudge", 1.0)):  # the second is the purer one, and counts
        for item, own in zip(records[: len(base)], alone, strict=True):
            config = {**item.config, "model": {"d_model": 64, "placebo": kind}}
            records.append(record(item.seed, item.metrics["val_loss"] + scale * own, config=config))
    said = said_of(runs_of(records))
    share = np.mean(np.square(alone)) / np.var(apart, ddof=1)
    assert f"explains {share:.0%}" in said
    assert "median of" not in said  # of one comparison: placebos are none


def test_variants_of_another_depth_are_set_beside_the_baseline_of_their_own() -> None:
    records = []
    for layers, noise in ((2, 0.01), (12, 0.3)):
        for option, sign in (("relu", 0.0), ("gelu", 1.0)):
            for seed, luck in enumerate(LUCK):
                loss = 2 + luck + sign * noise * (-1) ** seed
                settings = {"model": {"n_layers": layers}}
                records.append(record(seed, loss, axes={"activation": option}, settings=settings))
    said = said_of(runs_of(records))
    expected = {noise: np.corrcoef(LUCK, LUCK + noise * (-1.0) ** np.arange(6))[0, 1] for noise in (0.01, 0.3)}
    shown = [f"{r:.2f}".replace("0.", ".") for r in expected.values()]
    assert f"{shown[0]} with 2 layers, {shown[1]} with 12 layers" in said
