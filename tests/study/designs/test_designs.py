"""What the designs that combine levels choose: which variants, in which order, and what rules and baselines change."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from math import prod
from typing import Any
from unittest import mock

import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ablab.config import conf_folder
from ablab.config.signature import check_signature
from ablab.errors import UserError
from ablab.study.designs import Cumulative, Factor, Factorial, LeaveOneOut, OneFactor, Pairwise, Variant, covering
from ablab.study.designs.combined import Combined

DESIGNS: list[Any] = [Factorial, OneFactor, LeaveOneOut, Cumulative, Pairwise]
FROM_BASELINE = [Factorial, OneFactor, Cumulative, Pairwise]
MENU = sorted(path.stem for path in (conf_folder() / "design").glob("*.yaml"))

every_design = pytest.mark.parametrize("design", DESIGNS)
Make = Callable[..., list[Factor]]


def short(variants: list[Variant]) -> str:
    """`00 01`: the numbers at the ends of the values."""
    return " ".join("".join(value[-1] for value in variant.values()) for variant in variants)


def ends(factors: list[Factor], place: int) -> Variant:
    return {key: value for factor in factors for key, value in factor.levels[place].items()}


@pytest.mark.parametrize(
    ("design", "variants"),
    [
        (Factorial, "00 01 02 10 11 12"),
        (OneFactor, "00 10 01 02"),
        (LeaveOneOut, "12 02 10 11"),
        (Cumulative, "00 10 11 12"),
        (Pairwise, "00 01 02 10 11 12"),
    ],
)
def test_the_order_of_the_variants(design: type[Combined], variants: str, make_factors: Make) -> None:
    designed = design().choose(make_factors(2, 3))
    assert short(designed.variants) == variants
    assert (designed.excluded, designed.names) == ([], [])


@every_design
def test_nothing_that_varies_makes_one_variant(design: type[Combined]) -> None:
    assert design().choose([]).variants == design().choose([], {"seed": "0"}, {"seed": "0"}).variants == [{}]


@settings(deadline=None)
@given(data=st.data())
def test_counts_and_references(data: st.DataObject, studies: Any) -> None:
    study = data.draw(studies())
    factors, sizes = list(study.factors), [len(set(map(str, f.levels))) for f in study.factors]
    assert Factorial().choose(factors).variants == list({str(v): v for v in study.combinations}.values())
    assert len(Factorial().choose(factors).variants) == prod(sizes)
    for design in (OneFactor, LeaveOneOut, Cumulative):
        variants = design().choose(factors).variants
        assert len(variants) == 1 + sum(size - 1 for size in sizes)
        assert variants[0] == ends(factors, -1 if design is LeaveOneOut else 0)


@settings(deadline=None)
@given(data=st.data())
def test_one_change_at_a_time(data: st.DataObject, studies: Any) -> None:
    factors = list(data.draw(studies()).factors)
    keys = [factor.keys for factor in factors]
    for design in (OneFactor, LeaveOneOut):
        first, *others = design().choose(factors).variants
        for variant in others:
            assert len([group for group in keys if any(variant[key] != first[key] for key in group)]) == 1
    steps = Cumulative().choose(factors).variants
    for before, after in itertools.pairwise(steps):
        assert len([group for group in keys if any(before[key] != after[key] for key in group)]) == 1
    assert steps[-1] == ends([factor.distinct() for factor in factors], -1)


@mock.patch.object(covering, "ARRAYS", 2)
@settings(deadline=None)
@given(data=st.data())
def test_rules_are_kept_and_nothing_else_is_lost(data: st.DataObject, studies: Any) -> None:
    study = data.draw(studies())
    for design in DESIGNS:
        chosen = design(exclude=study.exclude)
        reference = ends(list(study.factors), -1 if design is LeaveOneOut else 0)
        if study.forbids(reference):
            with pytest.raises(UserError, match=r"^design\.exclude: .* leaves out the reference .*$"):
                chosen.choose(study.factors, study.fixed)
            continue
        designed = chosen.choose(study.factors, study.fixed)
        assert designed == chosen.choose(study.factors, study.fixed)
        assert designed.variants[0] == reference
        assert not any(map(study.forbids, designed.variants))
        assert len({str(variant) for variant in designed.variants}) == len(designed.variants)
        keys = [key for factor in study.factors for key in factor.keys]
        assert all(list(variant) == keys for variant in designed.variants)
        assert not any("\n" in words or not words for _, words in designed.excluded)
        if design is not Pairwise:
            free = design().choose(study.factors, study.fixed).variants
            assert designed.variants == [variant for variant in free if not study.forbids(variant)]
            assert [variant for variant, _ in designed.excluded] == [v for v in free if study.forbids(v)]


def test_what_is_left_out_is_named_with_what_forbids_it(make_factors: Make) -> None:
    rules: list[dict[str, Any]] = [{"a": "a1", "b": ["b1", "b2"]}, {"b": "b2", "seed": 0}]
    designed = Factorial(exclude=rules).choose(make_factors(2, 3), {"seed": "0"})
    assert short(designed.variants) == "00 01 10"
    assert designed.excluded == [
        ({"a": "a0", "b": "b2"}, "b=b2, seed=0"),
        ({"a": "a1", "b": "b1"}, "a=a1, b=b1"),
        ({"a": "a1", "b": "b2"}, "a=a1, b=b2"),
    ]


def test_a_forbidden_step_is_left_out_and_the_next_goes_on(make_factors: Make) -> None:
    designed = Cumulative(exclude=[{"a": "a1", "b": "b0"}]).choose(make_factors(2, 2, 2))
    assert (short(designed.variants), short([v for v, _ in designed.excluded])) == ("000 110 111", "100")


@every_design
def test_keys_that_advance_together(design: type[Combined], make_factors: Make) -> None:
    variants = design(zip=[["c", "a"]]).choose(make_factors(2, 2, 2)).variants
    assert all(variant["a"][-1] == variant["c"][-1] for variant in variants)
    assert all(list(variant) == ["a", "c", "b"] for variant in variants)
    assert short(Factorial(zip=[["c", "a"]]).choose(make_factors(2, 2, 2)).variants) == "000 001 110 111"


def test_values_are_repeated_only_as_part_of_different_levels() -> None:
    factors = [Factor.of("a", ["x", "x", "y", "y"]), Factor.of("b", ["1", "2", "2", "2"])]
    assert len(Factorial().choose(factors).variants) == 4
    assert [tuple(v.values()) for v in Factorial(zip=[["a", "b"]]).choose(factors).variants] == [
        ("x", "1"),
        ("x", "2"),
        ("y", "2"),
    ]


@pytest.mark.parametrize("design", FROM_BASELINE)
def test_a_declared_baseline_is_the_reference(design: type[Combined], make_factors: Make) -> None:
    fixed, factors = {"seed": "0"}, make_factors(2, 3)
    designed = design().choose(factors, fixed, {"b": "b1", "seed": "0"})
    assert designed.variants[0] == {"a": "a0", "b": "b1"}
    moved = [factors[0], Factor.of("b", ["b1", "b0", "b2"])]
    assert designed == design().choose(moved, fixed)


def test_one_key_of_a_group_says_which_level_is_the_baseline(make_factors: Make) -> None:
    factors = make_factors(3, 3)
    assert short(OneFactor(zip=[["a", "b"]]).choose(factors, {}, {"b": "b1"}).variants) == "11 00 22"
    with pytest.raises(UserError, match=r"^baseline: no variant has a=a0, b=b1, as these keys advance together$"):
        OneFactor(zip=[["a", "b"]]).choose(factors, {}, {"b": "b1", "a": "a0"})


@pytest.mark.parametrize(
    ("baseline", "variants"),
    [
        ({"a": "a1", "b": "b2"}, "12 02 10 11"),  # the reference itself
        ({"b": "b2"}, "12 02 10 11"),
        ({"b": "b1"}, "12 02 11 10 01"),
        ({"a": "a0"}, "12 02 10 11 00"),
        ({"b": "b2", "a": "a0"}, "11 01 12 10 02"),  # what is off in the baseline is not on in the reference
        ({"seed": "0"}, "12 02 10 11"),
    ],
)
def test_leaving_one_out_a_declared_baseline_is_off_and_comes_last(
    baseline: dict[str, str], variants: str, make_factors: Make
) -> None:
    designed = LeaveOneOut().choose(make_factors(2, 3), {"seed": "0"}, baseline)
    assert short(designed.variants) == variants
    assert short(LeaveOneOut().choose(make_factors(2), {}, {"a": "a0"}).variants) == "1 0"  # it is there already


@pytest.mark.parametrize(
    ("baseline", "line"),
    [
        ({"aa": "a0"}, r"baseline: aa is neither varied nor fixed; did you mean 'a'\? \(there are: a, b, seed\)"),
        ({"a": "a00"}, r"baseline: no variant has a=a00; did you mean 'a0'\? \(there are: a0, a1\)"),
        ({"seed": "1"}, r"baseline: seed=1, but every variant has seed=0"),
    ],
)
@every_design
def test_baselines_that_do_not_exist(
    design: type[Combined], baseline: dict[str, str], line: str, make_factors: Make
) -> None:
    with pytest.raises(UserError, match=rf"^{line}$"):
        design().choose(make_factors(2, 3), {"seed": "0"}, baseline)


@every_design
def test_a_rule_must_not_take_what_the_others_are_compared_with(design: type[Combined], make_factors: Make) -> None:
    factors, level = make_factors(2, 2), "1" if design is LeaveOneOut else "0"
    taken = rf"design\.exclude: a=a{level} leaves out the reference \(a=a{level}, b=b{level}\), which the others .*"
    with pytest.raises(UserError, match=rf"^{taken}$"):
        design(exclude=[{"a": f"a{level}"}]).choose(factors)
    with pytest.raises(UserError, match=r"^design\.exclude: seed=0 leaves out the reference \(the only variant\), .*$"):
        design(exclude=[{"seed": 0}]).choose([], {"seed": "0"})
    with pytest.raises(UserError, match=r"^design\.exclude: a=a0, b=b0 leaves out the (reference|baseline) .*$"):
        design(exclude=[{"a": "a0", "b": "b0"}]).choose(factors, {}, {"a": "a0"})


def test_leaving_one_out_a_rule_may_forbid_all_off_when_that_is_no_baseline(make_factors: Make) -> None:
    designed = LeaveOneOut(exclude=[{"a": "a0"}]).choose(make_factors(2, 2), {}, {"a": "a1"})
    assert (short(designed.variants), designed.excluded) == ("11 10", [({"a": "a0", "b": "b1"}, "a=a0")])


@every_design
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"zip": [["a", "x"]]}, r"design\.zip: x is not varied"),
        ({"exclude": [{"x": "a0"}]}, r"design\.exclude: x is neither varied nor fixed"),
        ({"exclude": [{"a": "a7"}]}, r"design\.exclude: no variant has a=a7"),
    ],
)
def test_settings_that_do_not_fit_the_factors(
    design: type[Combined], settings: dict[str, Any], line: str, make_factors: Make
) -> None:
    with pytest.raises(UserError, match=line) as error:
        design(**settings).choose(make_factors(2, 2), {"seed": "0"})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", MENU)
def test_every_option_is_built_by_its_file_and_checked_by_its_signature(name: str, make_factors: Make) -> None:
    loaded = OmegaConf.load(conf_folder() / "design" / f"{name}.yaml")
    lists = name in ("explicit", "steps")
    listed: dict[str, Any] = {"variants": {"one": {"a": "a0"}, "two": {"a": "a1"}}} if lists else {}
    rules: dict[Any, Any] = {"exclude": [{"a": "a1"}], **listed}
    config: Any = OmegaConf.merge(loaded, rules)
    variants = [
        instantiate(config, _convert_=convert).choose([] if listed else make_factors(3)).variants
        for convert in ("none", "all")
    ]
    assert variants[0] == variants[1] != []
    plain: Any = OmegaConf.to_container(loaded)
    check_signature("design", plain)
    with pytest.raises(UserError, match=r"^design\.exclude='x': must be a list of dict or null$"):
        check_signature("design", plain | {"exclude": "x"})
    with pytest.raises(UserError, match=r"^design\.exclud: no such setting of design; did you mean 'exclude'\?"):
        check_signature("design", plain | {"exclud": None})
    assert re.fullmatch(r"ablab\.study\.designs\.\w+", loaded._target_)
