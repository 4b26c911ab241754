"""A component of a recipe is swapped like any other: what the recipe set of the former one goes with it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ablab.config import RunConfig
from ablab.config.axes import AXES
from ablab.errors import UserError
from ablab.study.planning.preflight import check_options
from ablab.training.build_model import build_model

OTHERS = {
    "attention": "full",
    "feed_forward": "dense",
    "activation": "relu",
    "objective": "next_token",
    "residual": "plain",
    "norm": "layer",
}


def build(config: RunConfig) -> None:
    task: Any = SimpleNamespace(vocab_size=40, max_length=64, causal=True, padding=None, pooled=False)
    task.n_outputs, task.modalities = None, {}
    for axis in OTHERS:
        check_options(AXES[axis], config.options)
    build_model(config, task, device="meta")


@pytest.mark.parametrize("axis", OTHERS)
def test_an_option_leaves_with_what_the_recipe_set_of_it(axis: str, tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config("model=tiny", "recipe=deepseek_v4", f"{axis}={OTHERS[axis]}")
    assert config.options[axis] == tiny_config("model=tiny", f"{axis}={OTHERS[axis]}").options[axis]
    build(config)


def test_what_is_asked_for_is_never_left_out(tiny_config: Callable[..., RunConfig]) -> None:
    for wrong in ("attention.layers=[full]", "attention.kes=3"):
        with pytest.raises(UserError, match="no such setting of attention"):
            build(tiny_config("model=tiny", "recipe=deepseek_v3", "attention=topk", f"+{wrong}"))
