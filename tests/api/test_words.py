"""Settings in Python and on the command line: Hydra reads of the words what Python had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings

from ablab.api.words import words_of, written
from ablab.errors import UserError

PARSE = OverridesParser.create()
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()
VALUES = st.recursive(
    NUMBERS | st.sampled_from(["full", "a_b", "x.y"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "b_c", "d"]), inner),
)


def read(word: str) -> Any:
    """What Hydra makes of an override, as plain data."""
    return plain(PARSE.parse_override(word).value())


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


@settings(max_examples=40)  # Hydra's parser takes its time
@given(VALUES)
def test_hydra_reads_what_python_had(value: object) -> None:
    assert read(f"key={written(value)}") == value


@settings(max_examples=40)  # Hydra's parser takes its time
@given(st.lists(st.integers() | st.floats(allow_nan=False) | st.sampled_from(["full", "lsh"]), min_size=2))
def test_several_values_are_swept_over_in_a_sweep_and_a_list_elsewhere(values: list[object]) -> None:
    [swept], [kept] = words_of([], {"key": values}, sweep=True), words_of([], {"key": tuple(values)})
    override = PARSE.parse_override(swept)
    assert override.is_sweep_override()
    assert [*override.sweep_iterator()] == values
    assert read(kept) == values


@settings(max_examples=40)  # Hydra's parser takes its time
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00/\\", exclude_categories=["Cc", "Cs"]), min_size=1))
def test_a_path_is_one_text_whatever_is_in_it(name: str) -> None:
    assert read(f"key={written(Path('folder') / name)}") == str(Path("folder") / name)


def test_words_and_dicts_stand_in_their_order_and_keywords_last() -> None:
    found = words_of(["activation=relu,gelu", {"model.d_model": 64, "task.path": Path("a b")}, "~design"], {"seed": 3})
    assert found == ["activation=relu,gelu", "model.d_model=64", "task.path='a b'", "~design", "seed=3"]


def test_what_counts_by_itself_is_a_list_and_an_array_one_too() -> None:
    assert words_of([], {"seed": range(3), "model.sizes": [[1, 2]]}, sweep=True) == ["seed=0,1,2", "model.sizes=[1,2]"]
    assert words_of([], {"seed": np.arange(2), "optimizer.lr": np.float64(0.5)}, sweep=True) == [
        "seed=0,1",
        "optimizer.lr=0.5",
    ]


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("-m", "-m: flags are for the command line; call sweep()"),
        ("--config-dir=x", "--config-dir=x: flags are for the command line; give config_dir=..."),
        ("--multirun", "--multirun: flags are for the command line; leave it out"),
        ("compare", "compare: not an override; write KEY=VALUE"),  # it would be another command
        ("", "'': not an override; write KEY=VALUE"),
        (3, '3: must be a setting as on the command line, "seed=3", or a dict of settings'),
        ({"seed": {1}}, "{1}: must be a text, a number, a list or a dict of these, or None"),
    ],
)
def test_what_is_no_setting_is_refused(asked: Any, line: str) -> None:
    with pytest.raises(UserError) as refused:
        words_of([asked], {})
    assert str(refused.value).startswith(line)
