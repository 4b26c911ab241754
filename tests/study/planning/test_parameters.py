"""What a study file sweeps over: texts as on the command line, and lists where a list is no value of the setting."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from ablab.config import conf_folder, register_schema
from ablab.errors import UserError
from ablab.study.planning.parameters import overrides_of


@pytest.fixture(scope="module")
def config() -> DictConfig:
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", ["name=x"])


@pytest.mark.parametrize(
    ("key", "value", "override"),
    [
        ("attention", "full,lsh", "attention=full,lsh"),
        ("attention", ["full", "lsh"], "attention=full,lsh"),
        ("seed", [0, 1, 2], "seed=0,1,2"),
        ("seed", 3, "seed=3"),
        ("model.d_model", [64, 128], "model.d_model=64,128"),
        ("optimizer.lr", [1e-3, 0.01], "optimizer.lr=0.001,0.01"),
        ("optimizer.fused", [True, None], "optimizer.fused=true,null"),
        ("attention.bucket_size", [16, 32], "attention.bucket_size=16,32"),  # of an option that is swept over
        ("task.path", ["a b", "c"], "task.path='a b',c"),
        ("continue_from", ["a", "b"], "continue_from=a,b"),
        # One value, which is a list.
        ("optimizer.betas", [0.9, 0.99], "optimizer.betas=[0.9,0.99]"),
        ("optimizer.betas", [[0.9, 0.99], [0.8, 0.9]], "optimizer.betas=[0.9,0.99],[0.8,0.9]"),
        ("tune.lr", [0.1, 0.01], "tune.lr=[0.1,0.01]"),
        ("design.zip", [["attention", "seed"]], "design.zip=[[attention,seed]]"),
        ("callbacks", ["ema", "early_stopping"], "callbacks=[ema,early_stopping]"),
        # No list at all.
        ("task.path", None, "task.path=null"),
        ("optimizer.fused", True, "optimizer.fused=true"),
    ],
)
def test_a_parameter_is_the_override_that_it_means(config: DictConfig, key: str, value: Any, override: str) -> None:
    assert overrides_of({key: value}, config) == [override]


NUMBERS = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()


@given(values=st.lists(NUMBERS | st.text(max_size=6).filter(str.isprintable), min_size=2, max_size=4))
def test_a_list_is_swept_over_value_by_value(config: DictConfig, values: list[Any]) -> None:
    [override] = OverridesParser.create().parse_overrides(overrides_of({"model.x": values}, config))
    read = [OverridesParser.create().parse_override(f"x={text}").value() for text in override.sweep_string_iterator()]
    assert [each.text if isinstance(each, QuotedString) else each for each in read] == values


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"model": {"d_model": "64,128"}}, "hydra.sweeper.params.model: holds settings.*write model.d_model: ..."),
        ({"attention.window": [16, 32]}, "hydra.sweeper.params.attention.window: a list may be one value of it"),
        ({"attention": []}, "hydra.sweeper.params.attention: an empty list gives no value at all"),
    ],
)
def test_what_is_no_value_is_refused(config: DictConfig, params: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        overrides_of(params, config)
    assert "\n" not in str(caught.value)
