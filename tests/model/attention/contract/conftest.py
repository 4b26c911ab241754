"""An option of the axis as a core or as a layer, at sizes that bite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from promises import CORES, OWN_SMALL, SMALL

from ablab.model.attention import windowed
from ablab.model.attention.base import AttentionCore
from ablab.model.attention.layer import AttentionLayer, attention_layer
from ablab.model.initialisation import initialise
from ablab.model.spec import LayerSpec

MakeOption = Callable[..., Any]
Core = Callable[..., AttentionCore]
Layer = Callable[..., AttentionLayer]


@pytest.fixture(autouse=True)
def _short_sequences_are_not_special(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windowed, "DENSE_BELOW", 0)


@pytest.fixture
def make_option(load_option: Callable[..., Any]) -> MakeOption:
    """make_option(name, spec, dropout=0.1, ...): what the option's YAML makes, at sizes that bite."""

    def make(name: str, spec: LayerSpec, **changes: Any) -> Any:
        has = load_option("attention", name).keywords
        small = {key: value for key, value in SMALL.items() if key in has}
        return load_option("attention", name, **(small | OWN_SMALL.get(name, {}) | changes))(spec)

    return make


@pytest.fixture(params=CORES)
def make_core(request: pytest.FixtureRequest, make_option: MakeOption) -> Core:
    """make_core(problem, ...): a core, in the problem's dtype."""

    def make(problem: Any, **changes: Any) -> AttentionCore:
        core: AttentionCore = make_option(request.param, problem.spec, **changes).to(problem.dtype)
        return core

    return make


@pytest.fixture
def make_layer(attention_option: str, make_option: MakeOption) -> Layer:
    """make_layer(spec): the layer of an option, in double precision."""

    def make(spec: LayerSpec, **changes: Any) -> AttentionLayer:
        layer = attention_layer(spec, lambda spec: make_option(attention_option, spec, **changes))
        initialise(layer, seed=0)
        return layer.double()

    return make


@pytest.fixture
def spec(make_spec: Callable[..., LayerSpec]) -> Callable[..., LayerSpec]:
    return lambda **changes: make_spec(**({"max_length": 512} | changes))
