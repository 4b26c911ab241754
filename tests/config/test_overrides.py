"""Values are compared as values, however they are written; and what is meant as it is written stays so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict

from ablab.config import RunConfig, conf_folder, fingerprint, register_schema, resolve
from ablab.config.overrides import BETWEEN_OVERRIDES, as_written, canonical, same_value

PARSER = OverridesParser.create()
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False)
WORDS = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda word: canonical(word) == word)
PLAIN = NUMBERS | st.booleans() | st.none() | WORDS
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


def spelled(value: Any, draw: Callable[[st.SearchStrategy[str]], str]) -> str:
    """A value as somebody may write it."""
    if isinstance(value, list):
        return "[" + draw(st.sampled_from([",", ", ", " , "])).join(spelled(each, draw) for each in value) + "]"
    if value is None:
        return draw(st.sampled_from(["null", "None", "~", "NULL"]))
    if isinstance(value, bool):
        return draw(st.sampled_from([str(value), str(value).lower()]))
    if isinstance(value, str):
        return draw(st.sampled_from([value, f"'{value}'", f'"{value}"']))
    if isinstance(value, int):
        return draw(st.sampled_from([str(value), f"{value:_}", f"{value:+d}"]))
    return draw(st.sampled_from([repr(value), f"{value:.17e}", f"{value:.20E}", f"{value!r}"]))


@given(value=VALUES, data=st.data())
def test_every_spelling_of_a_value_is_that_value(value: Any, data: st.DataObject) -> None:
    assert same_value(spelled(value, data.draw), value)


@given(one=PLAIN, other=PLAIN)
def test_different_values_are_different(one: Any, other: Any) -> None:
    assert same_value(one, other) == (one == other and isinstance(one, bool) == isinstance(other, bool))


@given(value=st.text(max_size=20))
def test_any_text_has_a_form_and_that_form_is_kept_by_plain_values(value: str) -> None:
    assert isinstance(canonical(value), str)
    assert canonical([value]) == f"[{canonical(value)}]"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(
            ("3e-3", "0.003"),
            ("0.0030", 0.003),
            ("1", "1.0"),
            ("1_000", 1000),
            ("1e400", "1e400"),
            ("inf", float("inf")),
        ),
        *(("[0.9,0.99]", "[0.9, 0.99]"), ("[0.9,0.99]", [0.9, 0.99]), ("None", None), ("~", "null"), ("True", True)),
        *(("{a: 1}", {"a": 1.0}), ("'x, y'", "x, y"), ("[[1, 2],[]]", [[1.0, 2], []]), ("9" * 5000, "9" * 5000)),
    ],
)
def test_equal_values(one: object, other: object) -> None:
    assert same_value(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("1e400", "1e401"), ("1", "true"), ("", "null"), ("a,b", "a, b"), ("01a", "1a")]
)
def test_unequal_values(one: object, other: object) -> None:
    assert not same_value(one, other)


def test_a_comma_in_a_value_separates_nothing() -> None:
    assert BETWEEN_OVERRIDES.split("a=[1,2],b=3, c.d=x") == ["a=[1,2]", "b=3", "c.d=x"]


def config(*overrides: str) -> RunConfig:
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        composed = compose("config", ["name=x", *overrides], return_hydra_config=True)
    choices: Any = OmegaConf.to_container(composed.hydra.runtime.choices)
    with open_dict(composed):
        del composed["hydra"]
    return resolve(composed, choices, list(overrides))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("optimizer.lr=3e-3", "optimizer.lr=0.0030", True),
        ("trainer.gradient_clip_val=1", "trainer.gradient_clip_val=1.0", True),
        ("model.dropout=0", "model.dropout=0.0", True),
        ("optimizer.betas=[0,0.9]", "optimizer.betas=[0.0, 0.90]", True),
        ("optimizer.fused=true", "optimizer.fused=True", True),
        ("trainer.limit_val_batches=1", "trainer.limit_val_batches=1.0", False),  # one batch, and all of them
        ("trainer.max_steps=1", "trainer.max_steps=2", False),
    ],
)
def test_the_identity_of_a_run_is_that_of_its_values(one: str, other: str, same: bool) -> None:
    assert (fingerprint(config(one)) == fingerprint(config(other))) is same


def test_scientific_notation_is_a_number_in_an_option_too() -> None:
    assert yaml.safe_load("lr: 1e-3") == {"lr": "1e-3"}  # as YAML 1.1 has it, and Hydra does not
    assert config("optimizer.lr=1e-3").options["optimizer"]["lr"] == 0.001


@pytest.mark.parametrize(
    "name", ["2024_01_15", "1e-3", "12e5", "007", "1.0", "-3", "nan", "true", "1_000.5", "+1", ".5"]
)
def test_a_name_is_a_text_as_it_was_typed(name: str) -> None:
    for key in ("name", "question", "continue_from", "comparison.baseline"):
        assert str(PARSER.parse_override(as_written(f"{key}={name}")).value()) == name


@given(st.from_regex(r"[0-9_eE.+-]{1,8}", fullmatch=True).filter(lambda text: text.strip("_")))
def test_whatever_hydra_reads_of_a_name_is_what_was_typed(name: str) -> None:
    try:
        read = PARSER.parse_override(as_written(f"name={name}")).value()
    except Exception:  # what Hydra's grammar refuses is refused
        return
    assert str(read) == name


@pytest.mark.parametrize(
    "word", ["seed=1e3", "optimizer.lr=1e-3", "name=a", "name='1'", "name=a,b", "-m", "retry=null"]
)
def test_everything_else_stays(word: str) -> None:
    assert as_written(word) == word
