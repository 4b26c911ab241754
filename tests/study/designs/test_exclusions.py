"""A rule forbids what matches all of it, and a rule with a slip of the pen is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.errors import UserError
from ablab.study.designs.exclusions import Exclusions, rule_in_words

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
