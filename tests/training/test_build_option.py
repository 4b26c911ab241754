"""Options of a model are instantiated once for all that are alike, and share nothing that one of them may change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hydra.utils import instantiate

from ablab.config import RunConfig
from ablab.model import norm
from ablab.training import build_option as options
from ablab.training.build_option import build_option

TinyConfig = Callable[..., RunConfig]


def test_what_is_alike_is_instantiated_once(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(options, "_FACTORIES", {})

    def counted(node: Any, **how: Any) -> Any:
        made.append(node)
        return instantiate(node, **how)

    monkeypatch.setattr(options, "instantiate", counted)
    for config in (tiny_config("norm=rms"), tiny_config("norm=rms", "seed=3"), tiny_config("norm=layer")):
        build_option(config, "norm")
    assert len(made) == 2


def test_nobody_shares_a_list(tiny_config: TinyConfig) -> None:
    config = tiny_config("attention=windowed", "model.n_layers=2", "attention.window=[4,8]")
    first, second = (build_option(config, "attention").keywords["window"] for _ in range(2))
    assert first == second == [4, 8]
    assert first is not second


def test_a_class_that_another_takes_the_place_of_is_looked_up_anew(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("norm=rms")
    before = build_option(config, "norm").func
    other = type("Other", (before,), {"__module__": norm.__name__})
    monkeypatch.setattr(norm, before.__name__, other)
    assert build_option(config, "norm").func is other
