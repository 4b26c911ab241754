"""Configs as text: what is written is read as it was, by OmegaConf too, and the reverse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ablab.config import RunConfig, conf_folder
from ablab.config.yaml_text import from_yaml, to_yaml

# What looks like a number, a date, a mark or nothing to one reader of YAML or another.
ODD = ["1e5", "-1.5e5", "1.5e+5", ".5e-3", "1_000", "1_0.5", "0x1f", "0o17", "12:30", "12:30:45.5", "2024-01-31"]
ODD += ["2024-01-31 12:00:00", "nan", ".nan", "inf", "-.inf", "null", "~", "", " ", "yes", "off", "true", "=", "<<"]
ODD += ["- a", "a: b", "#", "a #b", "&a", "*a", "!a", "[", "{", "%", "@", "`", '"', "'", "\n", "a\nb", "é", "\x7f"]
ODD += ["1e", "e5", "1.e", "1.", "+1", ".", "..", "_1", "1__0e5", "1_e5", "___", "???", "None", "0b1", "1,5"]

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda text: "${" not in text)
texts = st.sampled_from(ODD) | words
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
nested = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
configs = st.dictionaries(texts, nested, max_size=5)


@given(configs)
def test_what_is_written_is_read_by_us_and_by_omegaconf(data: dict[str, Any]) -> None:
    text = to_yaml(data)
    assert same(from_yaml(text), data)
    assert same(OmegaConf.to_container(OmegaConf.create(text)), data)
    assert list(from_yaml(text)) == list(data)


@given(configs)
def test_what_omegaconf_writes_is_read(data: dict[str, Any]) -> None:
    """But for line breaks of Unicode that are text in one reader of YAML and folded in another."""
    assume(not any(char in repr(data) for char in ("\\x85", "\\u2028", "\\u2029")))
    assert same(from_yaml(OmegaConf.to_yaml(OmegaConf.create(data))), data)


@pytest.mark.parametrize("scalar", [*ODD, "-1", "1.0", "1.0e-05", "-.5e+3", "1.e5", "+1.5"])
def test_a_scalar_that_a_hand_wrote_is_what_omegaconf_says(scalar: str) -> None:
    text = f"key: {scalar}\n"
    try:
        expected = OmegaConf.to_container(OmegaConf.create(text))
    except Exception:
        with pytest.raises((yaml.YAMLError, ValueError)):
            from_yaml(text)
        return
    assert same(from_yaml(text), expected)


def same(one: Any, other: Any) -> bool:
    """Equal, down to the types: 1 is no 1.0 and no true."""
    return repr(one) == repr(other)


def test_what_is_met_twice_is_written_twice() -> None:
    shared = [1, {"a": 2}]
    assert from_yaml(to_yaml({"b": shared, "c": shared})) == {"b": shared, "c": shared}


def test_keys_are_told_apart_by_their_types() -> None:
    assert from_yaml("1: a\n'1': b\n1.0: c\n") == {1: "c", "1": "b"}  # as Python has them
    data = {f"key {number}": number for number in range(20_000)}
    assert from_yaml(to_yaml(data)) == data


def test_a_config_is_written_as_omegaconf_would(tiny_config: Any) -> None:
    config: RunConfig = tiny_config("attention=pattern", "model.n_layers=2", "question='Why is 1e5: so long?'")
    assert to_yaml(config.shown()) == OmegaConf.to_yaml(OmegaConf.create(config.shown()))


@pytest.mark.parametrize("path", sorted(conf_folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_option_is_read_as_omegaconf_reads_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert same(from_yaml(text) or {}, OmegaConf.to_container(OmegaConf.create(text)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: {c: 1, c: 2}\n", "two keys c"),
        ("a: !!set {x, y}\n", "a set is in it"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("a: [1\n", "while parsing"),
        ("a: !!timestamp 2024-01-31\n", "a date is in it"),
        ("a: &x [1]\nb: *x\n", "it has aliases"),
        ("a: &x [1]\nb: {<<: *x}\n", "it has aliases"),
        ("- " * 100_000 + "a", "nested deeper than any"),  # each would take room on the stack of C
        ("? " * 100_000 + "a", "nested deeper than any"),
        ("[" * 3000 + "]" * 3000, "nested deeper than any"),
    ],
)
def test_what_is_no_config_is_refused(text: str, told: str) -> None:
    with pytest.raises(yaml.YAMLError, match=told):
        from_yaml(text)
