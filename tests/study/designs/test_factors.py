"""Keys that advance together make one factor; values are written such that Hydra reads them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.errors import UserError
from ablab.study.designs.factors import Exclusions, Factor, plain, rule_in_words, written, zip_factors

PARSER = OverridesParser.create()
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters(exclude_characters="\r"))
)
TRICKY = st.text(st.sampled_from("ab'\"\\ ,=$/[]{}():.-+1e_\n")) | st.sampled_from(["true", "Null", "inf", "1", "1e3"])
VALUES = st.recursive(SCALARS | TRICKY, lambda inner: st.lists(inner) | st.dictionaries(st.just("x"), inner))


def test_a_group_takes_the_place_of_its_first_and_keeps_the_order_of_the_factors(
    make_factors: Callable[..., list[Factor]],
) -> None:
    a, b, c, d = make_factors(2, 3, 2, 3)
    assert zip_factors([a, b, c, d], [["d", "b"]]) == [
        a,
        Factor(({"b": "b0", "d": "d0"}, {"b": "b1", "d": "d1"}, {"b": "b2", "d": "d2"})),
        c,
    ]
    assert [f.keys for f in zip_factors([a, b, c, d], [["c", "a"], ["b", "d"]])] == [("a", "c"), ("b", "d")]
    assert list(zip_factors([d, a, c, b], [["a", "c"]])[1].levels[1]) == ["a", "c"]
    assert zip_factors([a, b], []) == [a, b]


def test_a_group_may_extend_one_that_was_joined_before(make_factors: Callable[..., list[Factor]]) -> None:
    a, b, c = make_factors(2, 2, 2)
    [joined] = zip_factors([*zip_factors([a, b], [["a", "b"]]), c], [["b", "c"]])
    assert joined.levels == ({"a": "a0", "b": "b0", "c": "c0"}, {"a": "a1", "b": "b1", "c": "c1"})


@pytest.mark.parametrize(
    ("groups", "line"),
    [
        ([["a", "bb"]], r"design\.zip: bb is not varied; did you mean 'b'\? \(there are: a, b, c\)"),
        ([["a", "c"], ["b", "c"]], r"design\.zip: c is given twice; a key advances with one group"),
        ([["a", "a"]], r"design\.zip: a is given twice; a key advances with one group"),
        ([["a"]], r"design\.zip: \['a'\] is no group of keys; write a list such as \[\[attention, position\]\]"),
        (["abc"], r"design\.zip: abc is no group of keys; .*"),
        ([["c", "a", "b"]], r"design\.zip: a has 2 values and b has 3; keys that advance together need as many"),
    ],
)
def test_groups_that_cannot_advance_together(groups: Any, line: str, make_factors: Callable[..., list[Factor]]) -> None:
    with pytest.raises(UserError, match=rf"^{line}$"):
        zip_factors(make_factors(2, 3, 2), groups)


def test_repeated_levels_count_once_where_they_first_are() -> None:
    assert Factor.of("a", ["x", "y", "x", "z", "y"]).distinct() == Factor.of("a", ["x", "y", "z"])
    both = Factor(({"a": "x", "b": "1"}, {"a": "x", "b": "2"}, {"a": "x", "b": "1"}))
    assert both.distinct().levels == ({"a": "x", "b": "1"}, {"a": "x", "b": "2"})


@settings(deadline=None)
@given(VALUES)
def test_a_written_value_comes_through_hydra_as_it_was(value: Any) -> None:
    override = PARSER.parse_override(f"key={written(value)}")
    assert not override.is_sweep_override()
    assert override.value() == value
    assert type(override.value()) is type(value)


@pytest.mark.parametrize("text", ["full", "block_sparse", "a/b.pt", "fp16-mixed", "/tmp/x", "v1.5"])
def test_a_simple_text_is_written_as_it_is(text: str) -> None:
    assert written(text) == text
    assert PARSER.parse_override(f"key={text}").value() == text


@settings(deadline=None)
@given(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.sampled_from("ab ,=1[]")))
def test_a_value_compares_equal_to_what_hydra_makes_of_it_in_a_sweep(value: Any) -> None:
    [swept, _] = PARSER.parse_override(f"key={written(value)},other").sweep_string_iterator()
    assert plain(swept) == plain(value)


def test_values_compare_as_text() -> None:
    assert plain("True") == plain(True) == "true"
    assert plain("NULL") == plain(None) == "null"
    assert plain(64) == plain("64") == "64"
    assert plain(0.001) == plain("0.001")
    assert plain([1, "a"]) == plain("[1,a]")
    assert plain("'x y'") == plain(r"x\ y") == plain("x y")
    assert len({plain(value) for value in (1, 1.0, True, "one", None, "")}) == 5  # 1 and 1.0 are one value


RULES = Exclusions(
    [{"attention": "lsh", "position": ["alibi", "rope"]}, {"task.causal": False, "model.d_ff": [None, 8]}]
)
VARIED = {"attention": ["full", "lsh"], "position": ["learned", "alibi", "rope"], "model.d_ff": ["null", "8"]}


def test_the_rule_that_forbids_is_told() -> None:
    rule = RULES.forbids({"attention": "lsh", "position": "rope", "seed": "1"})
    assert rule == {"attention": ("lsh",), "position": ("alibi", "rope")}
    assert rule_in_words(rule) == "attention=lsh, position=alibi or rope"


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"attention": "lsh"},
        {"position": "rope"},
        {"attention": "lsh", "position": "learned"},
        {"attention": "full", "position": "rope"},
        {"attention": "lsh", "model.d_ff": "null"},
    ],
)
def test_what_a_rule_does_not_match_to_the_end_is_not_forbidden(chosen: dict[str, str]) -> None:
    assert RULES.forbids(chosen) is None


@pytest.mark.parametrize(("causal", "d_ff"), [("False", "null"), ("false", "8"), ("FALSE", "Null")])
def test_values_are_compared_as_text(causal: str, d_ff: str) -> None:
    assert RULES.forbids({"task.causal": causal, "model.d_ff": d_ff}) is not None


def test_a_list_of_lists_is_about_lists() -> None:
    rules = Exclusions([{"tune.lr": [[0.1, 1], None]}])
    assert rules.forbids({"tune.lr": "[0.1,1]"}) is not None
    assert rules.forbids({"tune.lr": "null"}) is not None
    assert rules.forbids({"tune.lr": "0.1"}) is None


def test_a_rule_about_anything_that_is_there_passes() -> None:
    RULES.check(VARIED, {"task.causal": "False"})
    RULES.check(VARIED, {"task.causal": "True"})  # it never bites, but a narrowed study keeps its rules
    Exclusions(None).check({}, {})


@pytest.mark.parametrize(
    ("rules", "line"),
    [
        ([{"atention": "lsh"}], r"atention is neither varied nor fixed; did you mean 'attention'\? \(there are: .*\)"),
        ([{"attention": "lhs"}], r"no variant has attention=lhs; did you mean 'lsh'\? \(there are: full, lsh\)"),
        ([{"attention": "lsh", "position": ["alibi", "none"]}], r"no variant has position=none.*"),
        (["attention"], r"attention is no combination; write a list such as \[\{attention: lsh, position: alibi\}\]"),
        ([{}], r"\{\} is no combination; .*"),
        ([None], r"None is no combination; .*"),
        ({"attention": "lsh"}, r"attention is no combination; .*"),
        ([{"attention": []}], r"attention has an empty list of values, so that nothing would be left out"),
    ],
)
def test_rules_with_a_slip_of_the_pen(rules: Any, line: str) -> None:
    with pytest.raises(UserError, match=rf"^design\.exclude: {line}$"):
        Exclusions(rules).check(VARIED, {"seed": "0"})


@settings(deadline=None)
@given(data=st.data())
def test_a_partial_choice_is_forbidden_only_if_all_its_completions_are(data: st.DataObject, studies: Any) -> None:
    study = data.draw(studies())
    rules = Exclusions(study.exclude)
    variant = data.draw(st.sampled_from(study.combinations))
    part = {key: value for key, value in variant.items() if data.draw(st.booleans())}
    assert (rules.forbids(variant | study.fixed) is not None) == study.forbids(variant)
    if rules.forbids(part) is not None:
        assert study.forbids(variant)
