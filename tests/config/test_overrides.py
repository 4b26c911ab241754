"""Overrides as text: what is meant as it is written."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from ablab.config.overrides import as_written

PARSER = OverridesParser.create()


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
