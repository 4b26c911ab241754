"""Looks belong to a study: what counts as one, what each leaves to claim with, and the false claims that are said."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from said import notes_of
from scipy import stats
from synthetic import record, runs_of, study, write_runs

from ablab.analysis.anytime import log_e_value, threshold
from ablab.analysis.comparison import compare
from ablab.analysis.estimates import LEVEL, paired
from ablab.analysis.looks import Looks, looks_of, planned_looks
from ablab.analysis.notes import DecidedBefore
from ablab.analysis.sequential import fixed
from ablab.analysis.simulated_looks import nested
from ablab.config import Node
from ablab.config.seeds import Spending
from ablab.results.collect import Runs, collect
from ablab.results.interim import InterimAnalysis, count_interim_analysis
from ablab.results.record import Record

PLAN: Node = {"looks": [3, 5, 8, 10], "max": 10, "spending": "pocock"}
POCOCK = fixed(nested((3, 5, 8, 10)), "pocock")


def first(count: int) -> tuple[int, ...]:
    return tuple(range(1, count + 1))


def analysed(*seeds: Sequence[int]) -> tuple[InterimAnalysis, ...]:
    return tuple(InterimAnalysis(tuple(each), f"2026-01-{day:02}T00:00:00+00:00") for day, each in enumerate(seeds, 1))


def runs_with(seeds: Iterable[int], plan: Node | None = None, looks: Sequence[InterimAnalysis] = ()) -> Runs:
    records = [record(seed, planned_looks=plan) for seed in seeds]
    return replace(runs_of(records), interim_analyses=tuple(looks))


def p_of(differences: Sequence[float]) -> float:
    return paired(differences).p_value


def by_seed(differences: Sequence[float]) -> dict[int, float]:
    return dict(enumerate(differences, start=1))


@pytest.mark.parametrize(
    ("seeds", "before", "sizes"),
    [
        (first(5), [], (5,)),  # a study that is analysed once
        (first(5), [first(5)], (5,)),  # and shown again
        (first(5), [first(3)], (3, 5)),  # seeds at hand that no look has had count as one more
        (first(5), [first(3), first(5)], (3, 5)),
        (first(2), [], ()),  # too few for any claim
        (first(5), [first(1), first(2)], (5,)),  # which such looks had not made, either
        ((4, 5, 6), [first(3)], (3, 3)),  # new seeds alone are no new study
        (first(3), [first(5)], (5,)),  # fewer seeds are no second chance
        (first(6), [first(3), (4, 5, 6)], (3, 3, 6)),
    ],
)
def test_what_counts_as_a_look(seeds: Sequence[int], before: list[Sequence[int]], sizes: tuple[int, ...]) -> None:
    found = looks_of(runs_with(seeds, looks=analysed(*before)))
    assert found.sizes == sizes
    assert found.level() == LEVEL / max(len(sizes), 1)
    assert found.several == found.exceeded == (len(sizes) > 1)


@pytest.mark.parametrize(
    ("seeds", "before", "sizes", "now"),
    [
        (first(2), [], (), 0),
        (first(3), [], (3,), 0),
        (first(5), [], (3, 5), 1),  # looks that were planned count, whether anybody looked or not
        (first(5), [first(3)], (3, 5), 1),
        (first(10), [first(3), first(8)], (3, 5, 8, 10), 3),
        (first(3), [first(5)], (3, 5), 0),
        (first(4), [first(3)], (3, 4), 1),
    ],
)
def test_looks_that_are_planned(
    seeds: Sequence[int], before: list[Sequence[int]], sizes: tuple[int, ...], now: int
) -> None:
    found = looks_of(runs_with(seeds, PLAN, analysed(*before)))
    assert (found.sizes, found.now) == (sizes, now)
    assert found.several == bool(sizes)
    assert not found.exceeded
    assert found.error() == LEVEL
    if set(sizes) <= set(PLAN["looks"]):
        assert found.levels() == pytest.approx([POCOCK.at(LEVEL)[0]] * len(sizes))


def test_runs_that_declare_different_plans_have_none() -> None:
    records = [record(seed, planned_looks=PLAN if seed > 2 else None) for seed in first(5)]
    assert not looks_of(runs_of(records)).declared


@pytest.mark.parametrize(
    "plan", [{}, {"looks": "3"}, {"looks": [[3], "5", True, 2.5], "max": "x"}, {"spending": ["pocock"]}, {"max": -1}]
)
def test_what_is_no_plan_is_none(plan: Node) -> None:
    assert looks_of(runs_with(first(5), plan)) == looks_of(runs_with(first(5)))


def test_one_look_changes_nothing() -> None:
    differences = by_seed([0.1, 0.3, 0.2, -0.1, 0.25])
    for looks in (Looks(), Looks((first(5),)), Looks((first(5),), planned=(5,), most=5)):
        assert not looks.several
        assert (looks.level(), looks.level(0.01, 1)) == (LEVEL, 0.01)
        assert looks.p_value(differences, p_of) == p_of(list(differences.values()))


def test_a_look_that_was_not_planned_multiplies_p_by_their_number() -> None:
    differences = by_seed([0.1, 0.3, 0.2, -0.1, 0.25])
    looks = Looks((first(3), first(5)), 1)
    assert looks.p_value(differences, p_of) == pytest.approx(2 * p_of(list(differences.values())))
    assert looks.p_value(by_seed([1.0, -1.0, 0.5]), p_of) == 1.0


DECIDED = (0.30, 0.31, 0.305, 0.2, 1.9, -0.4, 0.5, 0.1)  # significant at three seeds, and not at five or eight


def test_what_a_planned_look_has_decided_stands() -> None:
    def p_at(count: int, sign: float = 1.0) -> float:
        looks = looks_of(runs_with(first(count), PLAN))
        return looks.p_value(by_seed([sign * each for each in DECIDED[:count]]), p_of)

    assert p_of(DECIDED[:5]) > LEVEL
    early = POCOCK.p_value([p_of(DECIDED[:3])])
    assert early < LEVEL
    assert p_at(3) == p_at(5) == p_at(8) == p_at(8, -1.0) == early
    turned = by_seed([*DECIDED[:3], -3.0, -4.0])  # the effect turned round: nothing stands
    looks = looks_of(runs_with(first(5), PLAN))
    assert looks.p_value(turned, p_of) == POCOCK.p_value([1.0, p_of(list(turned.values()))])


def test_a_look_with_too_few_pairs_claims_nothing() -> None:
    looks = looks_of(runs_with(first(5), PLAN))
    late = {3: 0.30, 4: 0.31, 5: 0.29}  # two seeds of the first look failed
    assert looks.p_value(late, p_of) == POCOCK.p_value([1.0, p_of(list(late.values()))])


@pytest.mark.parametrize("spending", ["pocock", "obrien_fleming", "lan_demets_obf", "anytime"])
def test_a_look_without_new_pairs_is_none(spending: Spending) -> None:
    """Seeds that failed must not make a p smaller: held against the laxer level of a later look, it would be."""
    had = by_seed([0.5, 0.6, 0.2, 0.45, 0.3])
    looks = planned_looks((3, 5, 8, 10), spending)
    taken = tuple(tuple(seed + 1 for seed in look) for look in looks.taken)
    at = [replace(looks, taken=taken[:count], now=count - 1) for count in (2, 3, 4)]
    if spending != "lan_demets_obf":  # whose boundary knows of the looks that there were
        assert len({each.p_value(had, p_of) for each in at}) == 1
    strict = at[-1].levels()[1]
    assert at[-1].until(had).level() == strict
    assert at[-1].p_value(had, p_of) > LEVEL or p_of(list(had.values())) < strict


def test_an_equivalence_that_only_an_earlier_look_has_shown_says_so() -> None:
    """Beside an interval that does not lie inside the margin any more."""
    calm, wild = [0.001, -0.001, 0.002], [3.0, -2.5, 3.5, -2.0]
    said = []
    for differences in (calm, calm + wild):
        base = [record(seed, 10 + seed, planned_looks=PLAN) for seed, _ in enumerate(differences)]
        own = [
            record(seed, 10 + seed + each, axes={"activation": "gelu"}, planned_looks=PLAN)
            for seed, each in enumerate(differences)
        ]
        item = compare(runs_of([*base, *own]), margin=0.1).items[0]
        assert item.verdict == "EQUIVALENT"
        said.append(DecidedBefore() in item.notes)
    assert said == [False, True]


def test_other_seeds_are_new_pairs_also_where_they_are_no_more() -> None:
    looks = Looks(((1, 2, 3), (4, 5, 6)), 1, (3, 6), 6, "anytime")
    found = {1: 0.1, 2: -0.1, 3: 0.2, 4: 0.30, 5: 0.301, 6: 0.302}
    assert looks.p_value(found, p_of) < LEVEL


def test_a_variant_whose_later_seeds_failed_is_held_against_the_look_that_it_had() -> None:
    plan = PLAN | {"spending": "obrien_fleming"}
    base, own = [1.0, 1.1, 0.9, 1.05, 0.95], [0.83, 0.96, 0.74, 0.89, 0.81]
    records = [record(seed, loss, planned_looks=plan) for seed, loss in enumerate(base * 2, start=1)]
    gelu = {"activation": "gelu"}
    records += [record(seed, loss, axes=gelu, planned_looks=plan) for seed, loss in enumerate(own, start=1)]
    early = compare(runs_of([one for one in records if one.seed <= 5])).items[0]
    for status in ("failed", "diverged"):
        lost = [record(s, axes=gelu, planned_looks=plan, status=status, metrics={}) for s in range(6, 11)]
        late = compare(runs_of([*records, *lost])).items[0]
        assert (late.p_adjusted, late.interval, late.level) == (early.p_adjusted, early.interval, early.level)


@pytest.mark.parametrize("spending", ["pocock", "obrien_fleming", "lan_demets_pocock", "lan_demets_obf", "anytime"])
def test_each_way_of_sharing_out_the_level_keeps_it(spending: Spending) -> None:
    generator = np.random.default_rng(7)
    studies, plan = 500, {"looks": [4, 6, 9], "max": 9, "spending": spending}
    looks = [looks_of(runs_with(first(size), plan)) for size in (4, 6, 9)]
    wrong = 0
    for values in generator.normal(size=(studies, 9)):
        wrong += any(look.p_value(by_seed(values[: len(look.taken[look.now])]), p_of) < LEVEL for look in looks)
    assert wrong / studies <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / studies)
    if spending != "anytime":
        assert wrong / studies >= LEVEL - 4 * math.sqrt(LEVEL * (1 - LEVEL) / studies)
        assert planned_looks((4, 6, 9), spending).levels() == pytest.approx(looks[-1].levels())


def test_a_campaign_without_an_end_may_stop_at_any_seed() -> None:
    looks = looks_of(runs_with(first(7), {"looks": None, "max": None, "spending": "anytime"}))
    assert looks.sizes == (3, 4, 5, 6, 7)
    assert looks.level() == pytest.approx(2 * stats.t.sf(threshold(7, LEVEL), 6))
    values = by_seed([1.0, 1.1, 0.9, 1.05, 3.0, -1.0, 2.0])
    most = max(log_e_value(_t(list(values.values())[:count]), count) for count in range(3, 8))
    assert looks.p_value(values, p_of) == pytest.approx(math.exp(-most))


def _t(values: Sequence[float]) -> float:
    return float(stats.ttest_1samp(values, 0).statistic)


@pytest.mark.parametrize("sizes", [(3, 5), (3, 5, 8, 10), (5, 6, 7)])
def test_the_error_of_looks_that_were_not_planned_is_the_one_that_is_said(sizes: tuple[int, ...]) -> None:
    looks = Looks(tuple(map(first, sizes)), len(sizes) - 1)
    values, studies = np.random.default_rng(8).normal(size=(40_000, max(sizes))), 40_000
    claimed = np.zeros(studies, bool)
    for look, size in enumerate(sizes):
        claimed |= stats.ttest_1samp(values[:, :size], 0, axis=1).pvalue < LEVEL / (look + 1)
    error = float(claimed.mean())
    assert looks.error() == pytest.approx(error, abs=4 * math.sqrt(error / studies))
    assert LEVEL < looks.error() < looks.error(5) < sum(LEVEL / (look + 1) for look in range(len(sizes)))


def test_seeds_beyond_the_plan_have_the_level_of_its_end_and_what_that_costs_is_said() -> None:
    looks = looks_of(runs_with(first(12), PLAN))
    assert looks.levels() == pytest.approx([POCOCK.at(LEVEL)[0]] * 5)
    assert looks.exceeded
    assert LEVEL < looks.error() < 0.06


def test_a_look_besides_the_plan_has_what_is_left() -> None:
    looks = looks_of(runs_with(first(7), PLAN, analysed(first(3), first(4))))
    assert looks.sizes == (3, 4, 5, 7)
    assert looks.levels()[0] == pytest.approx(POCOCK.at(LEVEL)[0], rel=0.02)
    assert max(looks.levels()[1:]) < POCOCK.at(LEVEL)[0]
    assert not looks.exceeded


@pytest.mark.parametrize(
    ("plan", "counts", "said"),
    [
        (None, [], None),
        (None, [5], None),
        (
            None,
            [3, 5],
            "INTERIM ANALYSES  analysed at 3, then 5 seeds, which was not planned: this time each comparison alone is "
            "held against .025, its interval at 97.5%, and a study analysed so makes a false claim in up to 6.5%; "
            "seed=auto plans its looks for 5%.",
        ),
        (
            PLAN,
            [3],
            "INTERIM ANALYSES  3, then 5 seeds of at most 10, as planned (pocock): this time each comparison alone is "
            "held against .0165, its interval at 98.35%, and all looks together keep 5%.",
        ),
        (
            {**PLAN, "looks": [3, 4], "max": 4},
            [3, 4],
            "INTERIM ANALYSES  analysed at 3, 4, then 5 seeds, beyond the 4 that were planned: this time each "
            "comparison alone is held against .0305, its interval at 96.95%, and a study analysed so makes a false "
            "claim in up to 6.5%; seed=auto plans its looks for 5%.",
        ),
    ],
)
def test_readers_are_told_of_more_than_one_look(plan: Node | None, counts: Sequence[int], said: str | None) -> None:
    records = study({"relu": [1.00, 1.02, 0.97, 1.05, 0.99], "gelu": [0.99, 1.05, 0.97, 1.02, 1.00]})
    records = [replace(each, planned_looks=plan) for each in records]
    runs = replace(runs_of(records), interim_analyses=analysed(*map(first, counts)))
    assert notes_of(compare(runs)) == (() if said is None else (said,))


def _study(plan: Node | None) -> list[Record]:
    """Two variants, the first three seeds of which were analysed before the others were planned."""
    losses = {"relu": [1.00, 1.02, 0.97, 1.05, 0.99], "gelu": [1.03, 1.03, 1.01, 1.055, 1.045]}
    known = [asdict(look) | {"seeds": list(look.seeds)} for look in analysed(first(3))]
    return [
        replace(each, looks=known if each.seed > 3 else [], planned_looks=plan, index=place, fingerprint=str(place))
        for place, each in enumerate(study({**losses, "glu": [value + 0.001 for value in losses["relu"]]}))
    ]


def _concluded(runs: Runs) -> Mapping[str, object]:
    found = compare(runs, baseline="activation=relu", margin=0.01)
    notes = found.notes
    return {item.variant: (item.verdict, item.level, item.p_adjusted, item.interval) for item in found.items} | {
        "": notes
    }


@pytest.mark.parametrize("plan", [None, PLAN], ids=["not planned", "planned"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_it_does_not_matter_in_which_folders_the_runs_lie(
    plan: Node | None, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    records = _study(plan)
    whole = tmp_path_factory.mktemp("whole")
    count_interim_analysis(write_runs(whole, records), first(3))
    expected = _concluded(collect([whole]))
    parts = data.draw(st.lists(st.integers(0, 3), min_size=len(records), max_size=len(records)))
    root = tmp_path_factory.mktemp("parts")
    for part in set(parts):
        write_runs(root / str(part), [each for each, own in zip(records, parts, strict=True) if own == part])
    told = data.draw(st.sets(st.sampled_from(sorted(set(parts)))))  # folders that the list of looks was copied to
    for part in told:
        count_interim_analysis(root / str(part), first(3))
    places = [root / str(part) for part in dict.fromkeys(parts)]
    for given_places in ([root], data.draw(st.permutations(places))):
        assert _concluded(collect(given_places)) == expected
    count_interim_analysis(root / str(parts[0]), first(5))  # and is looked at as a whole
    assert _concluded(collect([root])) == expected


def test_folders_that_were_analysed_one_by_one_are_no_fresh_study(tmp_path: Path) -> None:
    records = [replace(each, looks=[]) for each in _study(None)]
    for name, seeds in (("a", (1, 2, 3)), ("b", (4, 5))):
        write_runs(tmp_path / name, [each for each in records if each.seed in seeds])
        count_interim_analysis(tmp_path / name, seeds)
    for places in itertools.permutations((tmp_path / "a", tmp_path / "b")):
        assert looks_of(collect(places)).level() == LEVEL / 2
