"""The statistics of campaigns: e-values, intervals, noise, levels, and whole campaigns by simulation."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import integrate, stats

from ablab.analysis.campaign_noise import SEEDS, Noise, noise_of, order_of_seeds
from ablab.analysis.campaign_rule import FEWEST, evidence_of, log_e_values
from ablab.analysis.online_fdr import PROPOSALS, ELond, Lord, OnlineLevels, Saffron, e_lond_level, share
from ablab.analysis.shift_evidence import FIND, Scale, Sums, interval, log_e_value
from ablab.analysis.simulated_campaigns import Flags, Setting, simulate

NOTHING_KNOWN = noise_of(np.full((0, SEEDS), np.nan), [])


def known(variance: float, degrees: float) -> Noise:
    return Noise(Scale(variance, degrees), np.zeros(SEEDS), np.eye(SEEDS))


def test_e_value_is_the_ratio_of_two_integrals_over_the_unknown_scale() -> None:
    improvements, scale = np.array([0.7, -0.2, 1.1]), Scale(0.5, 4.0)
    sums = Sums(improvements.sum(), 3.0, (improvements**2).sum(), 3)

    def likelihood(shift: float) -> float:
        def at(deviation: float) -> float:
            prior = stats.chi2.pdf(4.0 * 0.5 / deviation**2, 4.0) * 4.0 / deviation**3
            return float(np.prod(stats.norm.pdf(improvements, shift * deviation, deviation)) * prior)

        return float(integrate.quad(at, 0.01, 60, limit=200)[0])

    assert float(log_e_value(sums, scale)) == pytest.approx(np.log(likelihood(FIND) / likelihood(0.0)), abs=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 3.0, 30.0])
def test_e_values_of_no_effect_are_one_on_average_wherever_one_stops(degrees: float) -> None:
    generator = np.random.default_rng(0)
    campaigns = 40_000
    variance = degrees / generator.chisquare(degrees, campaigns) if degrees else np.ones(campaigns)
    improvements = generator.standard_normal((campaigns, 6)) * np.sqrt(variance)[:, None]
    path = log_e_values(improvements, list(range(6)), known(1.0, degrees))
    stop = np.where(path[:, 0] > 0.5, 0, 1)  # as soon as it looks good
    assert np.exp(path[:, :2]).mean(0) == pytest.approx(1.0, abs=0.12)
    assert np.exp(path[np.arange(campaigns), stop]).mean() == pytest.approx(1.0, abs=0.12)
    assert 0.005 < (path.max(1) >= np.log(20)).mean() <= 0.05


def test_evidence_does_not_depend_on_the_unit_of_the_metric() -> None:
    improvements = [0.3, 0.1, 0.4]
    small = evidence_of(improvements, [0, 1, 2], known(0.04, 7.0))
    large = evidence_of([100 * each for each in improvements], [0, 1, 2], known(400.0, 7.0))
    assert large.e_value == pytest.approx(small.e_value)
    assert large.low is not None
    assert small.low is not None
    assert large.low == pytest.approx(100 * small.low)


def test_a_margin_asks_for_that_much_more() -> None:
    improvements, order = [1.3, 1.1, 1.4], [0, 1, 2]
    with_margin = evidence_of(improvements, order, known(0.04, 7.0), margin=1.0)
    without = evidence_of([each - 1.0 for each in improvements], order, known(0.04, 7.0))
    assert with_margin.e_value == pytest.approx(without.e_value)
    assert with_margin.improvement == pytest.approx(np.mean(improvements))


def test_intervals_cover_at_every_seed_at_once() -> None:
    generator = np.random.default_rng(1)
    missed = 0
    for _ in range(400):
        values = 0.8 + generator.standard_normal(8)
        for n in range(1, 9):
            sums = Sums(values[:n].sum(), float(n), (values[:n] ** 2).sum(), n)
            _, low, high = interval(sums, Scale(1.0, 20.0), 0.05)
            if not low <= 0.8 <= high:
                missed += 1
                break
    assert 0 < missed <= 0.05 * 400


@pytest.mark.parametrize("shift", [5.0, 30.0, -30.0])
def test_the_effect_and_its_interval_move_with_the_differences_however_large(shift: float) -> None:
    improvements, order, noise = np.array([0.3, -0.4, 0.1, 0.2]), [0, 1, 2, 3], known(0.09, 32.0)
    here, there = (evidence_of(list(each), order, noise) for each in (improvements, improvements + shift))
    assert there.improvement == pytest.approx(shift + improvements.mean())
    assert there.deviation == pytest.approx(here.deviation)
    assert here.low is not None
    assert here.high is not None
    assert (there.low, there.high) == pytest.approx((shift + here.low, shift + here.high))


@pytest.mark.parametrize("effect", [0.0, 5.0, 30.0])
def test_intervals_of_a_campaign_cover_large_effects_at_every_seed_at_once(effect: float) -> None:
    generator = np.random.default_rng(8)
    campaigns, before, seeds = 200, 30, 5
    shape = (campaigns, before + 1, SEEDS)
    improvements = np.sqrt(0.5) * (generator.standard_normal(shape) - generator.standard_normal((campaigns, 1, SEEDS)))
    seen = np.full((campaigns, before, SEEDS), np.nan)
    for place in range(before):
        at = order_of_seeds(place + 1)[: 1 + place % 3]
        seen[:, place, at] = improvements[:, place, at]
    order, missed = order_of_seeds(before + 1), 0
    for campaign in range(campaigns):
        noise, own = noise_of(seen[campaign], range(1, before + 1)), effect + improvements[campaign, -1, order]
        found = [evidence_of(list(own[: n + 1]), order, noise) for n in range(seeds)]
        missed += any(each.low is not None and not each.low <= effect <= (each.high or 0.0) for each in found)
    assert missed <= 0.05 * campaigns


def test_a_wild_seed_counts_for_little_as_evidence_and_in_full_in_the_interval() -> None:
    calm, wild = (evidence_of([first, 4.0, 4.0, 4.0, 4.0], list(range(5)), known(1.0, 8.0)) for first in (4.0, 30.0))
    assert wild.resolves(0.0025)
    assert wild.e_value < calm.e_value
    assert wild.low is not None
    assert wild.low < 0  # which is said beside such a KEEP


def test_luck_of_the_baseline_is_found_and_a_common_effect_is_not_taken_for_it() -> None:
    generator = np.random.default_rng(2)
    luck = 0.7 * generator.standard_normal(SEEDS)
    seen = np.full((400, SEEDS), np.nan)
    for place in range(400):
        at = order_of_seeds(place + 1)[:2]
        seen[place, at] = 0.7 * generator.standard_normal(2) - luck[at]
    noise = noise_of(seen, range(1, 401))
    assert np.corrcoef(noise.luck, -luck)[0, 1] > 0.95
    assert float(np.asarray(noise.scale.variance)) == pytest.approx(0.98, rel=0.2)
    assert noise.covariance[0, 0] < 0.7  # of one: half of it was the baseline's
    shifted = noise_of(seen - 5.0, range(1, 401))
    assert shifted.luck == pytest.approx(noise.luck, abs=1e-9)
    assert shifted.covariance == pytest.approx(noise.covariance, abs=1e-9)


def test_nothing_is_assumed_of_the_scale_before_anything_is_seen() -> None:
    assert float(np.asarray(NOTHING_KNOWN.scale.degrees)) == 0
    improvements = [1.0, 1.2, 0.9]
    one = evidence_of(improvements, [0, 1, 2], NOTHING_KNOWN)
    other = evidence_of([50 * each for each in improvements], [0, 1, 2], NOTHING_KNOWN)
    assert one.e_value == pytest.approx(other.e_value)


@pytest.mark.parametrize(("ties", "runs", "tie"), [(3, 1, 0.0), (12, 2, 0.9 - 0.85), (2, 4, -1 / 64)])
def test_ties_say_nothing_of_noise_and_keep_no_later_proposal_out(ties: int, runs: int, tie: float) -> None:
    seen, order = np.full((ties, SEEDS), np.nan), order_of_seeds(ties + 1)
    for place in range(ties):
        seen[place, order_of_seeds(place + 1)[:runs]] = tie
    improvements = [0.3, 0.28, 0.33]
    found = evidence_of(improvements, order, noise_of(seen, range(1, ties + 1)))
    assert found == evidence_of(improvements, order, NOTHING_KNOWN)
    assert found.e_value > 10


def test_the_spread_is_that_of_proposals_that_have_one_however_many_tie() -> None:
    generator = np.random.default_rng(4)
    seen = np.full((40, SEEDS), np.nan)
    seen[:30, :4] = 1 / 64
    seen[30:, :4] = generator.standard_normal((10, 4))
    scale = noise_of(seen, [1] * 40).scale
    assert float(np.asarray(scale.variance)) == pytest.approx(0.95 * seen[30:, :4].var(1, ddof=1).mean())
    assert float(np.asarray(scale.degrees)) == pytest.approx(1 / (1 / 32 + 1 / 30))


def test_a_few_wild_proposals_do_not_make_the_campaign_blind() -> None:
    generator = np.random.default_rng(3)
    seen = generator.standard_normal((40, SEEDS))
    seen[:, 4:] = np.nan
    seen[:3] *= 100
    assert float(np.asarray(noise_of(seen, range(1, 41)).scale.variance)) < 3  # of one; the mean is 750


def test_one_wild_seed_keeps_nothing() -> None:
    for degrees in (0.0, 2.0, 8.0, 32.0):
        assert not evidence_of([30.0, 0.0, 0.1], [0, 1, 2], known(1.0, degrees)).resolves(0.05)


def test_no_proposal_is_kept_on_fewer_seeds_than_may_conclude_anything() -> None:
    assert not evidence_of([9.0] * (FEWEST - 1), list(range(FEWEST - 1)), known(1.0, 32.0)).resolves(0.05)
    assert evidence_of([9.0] * FEWEST, list(range(FEWEST)), known(1.0, 32.0)).resolves(0.05)


def test_shares_of_the_level_never_end_and_add_up_to_one() -> None:
    shares = [share(number) for number in range(1, 200_000)]
    assert min(shares) > 0
    assert 0.999 < sum(shares) < 1


@given(some.lists(some.tuples(some.booleans(), some.booleans()), min_size=1, max_size=60), some.randoms())
def test_the_false_share_of_all_claims_is_bounded_by_the_e_values_whatever_they_are(
    proposals: list[tuple[bool, bool]], random: Random
) -> None:
    """Each that is claimed has just the e-value that it needs; on average that of a false one is 1 at most.

    So what is summed up here has a mean of at most the level.
    """
    order = list(range(len(proposals)))
    random.shuffle(order)  # in which they end, which need not be that of their numbers
    claims = false = 0
    bound = 0.0
    for place in order:
        is_claimed, is_false = proposals[place]
        if is_claimed:
            e_value = 1 / e_lond_level(place + 1, claims)
            claims, false = claims + 1, false + is_false
            bound += 0.05 * share(place + 1) * e_value * is_false
        assert false <= bound * max(claims, 1) * (1 + 1e-9)


@pytest.mark.parametrize("procedure", [ELond, Lord, Saffron])
def test_levels_are_earned_by_claims_and_spent_within_the_level(procedure: type[ELond | Lord | Saffron]) -> None:
    without, earning = procedure(1), procedure(1)
    spent = 0.0
    for number in range(PROPOSALS):
        assert earning.level()[0] >= without.level()[0] - 1e-12
        spent += without.level()[0]
        _tell(without, claimed=False)
        _tell(earning, claimed=number % 10 == 0)
    assert spent <= 0.05
    assert earning.level()[0] > 5 * without.level()[0]


def _tell(procedure: OnlineLevels, claimed: bool) -> None:
    procedure.told(np.array([claimed]), np.array([0.01 if claimed else 0.9]))


@pytest.mark.parametrize("effects", [(1.5, 1.5), (1.5, 3.0)])
def test_campaigns_keep_few_false_proposals_find_most_real_ones_and_cost_less_than_twice(
    effects: tuple[float, float],
) -> None:
    found = simulate(Setting(effects=effects), campaigns=16, seed=5)
    real = found.effect > 0
    assert _false_share(found.kept, real) <= 0.05
    assert found.kept[real].mean() >= 0.75  # by 20,000 campaigns .82 and .96: experiments/campaign
    assert found.runs.mean() <= 2 * (1 + found.effect.shape[1]) * 1.03
    assert found.seeds[~real].mean() < 1.7
    assert _false_share(found.lower, real) > 0.75  # what is kept if it is lower than the baseline


@pytest.mark.parametrize("noise", ["t3", "skewed", "skewed the other way"])
def test_without_any_effect_hardly_a_campaign_keeps_something(noise: str) -> None:
    found = simulate(Setting(real=0.0, noise=noise, proposals=100, ratio=3.0), campaigns=20, seed=6)
    assert found.kept.any(1).mean() <= 0.1


def _false_share(kept: Flags, real: Flags) -> float:
    return float(((kept & ~real).sum(1) / np.maximum(kept.sum(1), 1)).mean())
