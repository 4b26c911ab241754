"""Layers that differ by a pattern are those of models in which all layers have the option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.model.pattern import choices
from ablab.model.transformer import Transformer
from ablab.study.planning.preflight import Preflight
from ablab.training.cost import count_flops, count_parameters

Build = Callable[..., Transformer]
Load = Callable[..., Any]


@pytest.mark.parametrize(
    ("n_layers", "layers", "first", "expected"),
    [
        (4, ["full"], [], "ffff"),
        (8, ["3*windowed", "full"], [], "wwwfwwwf"),
        (4, ["windowed", "windowed", "windowed", "full"], [], "wwwf"),
        (5, ["windowed", "full"], ["full"], "fwfwf"),
        (4, ["windowed"], ["2*full"], "ffww"),
    ],
)
def test_lists_are_repeated_until_every_layer_has_one(
    n_layers: int, layers: list[Any], first: list[Any], expected: str
) -> None:
    found = choices("attention", n_layers, layers, first)
    assert "".join(name[0] for name, _ in found) == expected


@pytest.mark.parametrize(
    ("n_layers", "layers", "first", "words"),
    [
        (6, ["3*windowed", "full"], [], r"attention\.layers has 4 layers, and model\.n_layers=6 leaves 6, no multiple"),
        (5, ["2*full"], ["2*full"], r"model\.n_layers=5 leaves 3 behind the 2 of attention\.first, no multiple"),
        (2, ["full"], ["2*full"], r"attention\.first has 2 layers, which leaves none of model\.n_layers=2"),
        (2, [], [], r"attention\.layers names no option"),
        (2, ["0*full"], [], r"attention\.layers: '0\*full' must be OPTION, 3\*OPTION or"),
        (2, ["99999999999*full"], [], r"attention\.layers: '99999999999\*full' must be OPTION"),
        (2, ["full"], [{"full": {}, "windowed": {}}], r"attention\.first: .* must be OPTION"),
    ],
)
def test_patterns_that_do_not_fit(n_layers: int, layers: list[Any], first: list[Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        choices("attention", n_layers, layers, first)


def test_a_layer_is_what_it_is_in_a_model_of_such_layers(
    build: Build, load_option: Load, tokens: Callable[..., Tensor], watch: Callable[..., dict[str, float]]
) -> None:
    pattern = load_option("attention", "pattern", layers=[{"windowed": {"window": 3}}, "mla"], first=["full"])
    model = build(attention=pattern, n_layers=3)
    own = [load_option("attention", option) for option in ("full", "full", "mla")]
    own[1] = load_option("attention", "windowed", window=3)
    expected = build(attention=lambda spec: own[spec.layer_index](spec), n_layers=3)
    assert model.state_dict().keys() == expected.state_dict().keys()
    ids = tokens(2, 20)
    torch.testing.assert_close(model(ids), expected(ids), rtol=0, atol=0)
    visited = watch(model, ids)
    assert visited["attention/keys_visited/layer_0"] == pytest.approx(10.5)
    assert visited["attention/keys_visited/layer_1"] == pytest.approx(57 / 20)


def test_parameters_and_flops_are_those_of_the_layers(build: Build, load_option: Load) -> None:
    def cost(option: str, **settings: Any) -> Tensor:
        with torch.device("meta"):
            model = build(feed_forward=load_option("feed_forward", option, **settings), n_layers=4)
            ids = torch.zeros(1, 16, dtype=torch.int64)
        flops, _ = count_flops(model, lambda y, t: cross_entropy(y.flatten(0, 1), t.flatten()), (ids, ids))
        return torch.tensor([count_parameters(model), flops])

    three = cost("pattern", layers=[{"moe": {"n_experts": 5}}], first=["dense"])
    assert torch.equal(4 * three, cost("dense") + 3 * cost("moe", n_experts=5))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("attention=pattern", "model.n_layers=3"), r"^attention\.layers has 2 layers, and model\.n_layers=3 leaves 3"),
        (
            ("attention=pattern", "attention.layers=[windwed]"),
            r"^attention=windwed: no such option; did you mean 'win",
        ),
        (
            ("attention=pattern", "attention.layers=[{windowed:{windw:3}}]"),
            r"^attention\.layers\.windowed\.windw: no such setting .*did you mean 'window'",
        ),
        (("attention=pattern", "attention.layers=[{windowed:{window:0}}]"), r"^attention: window must be at least 1"),
        (
            ("attention=pattern", "attention.layers=[full,nsa]", "model.n_layers=2", "position=alibi"),
            r"^position=alibi does not work with attention=pattern",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    tiny_config: Callable[..., RunConfig], overrides: tuple[str, ...], line: str
) -> None:
    with pytest.raises(UserError, match=line) as caught:
        Preflight().check(tiny_config(*overrides))
    assert "\n" not in str(caught.value)


def test_grouped_heads_are_of_the_layers_that_can_group_them(build: Build, load_option: Load) -> None:
    def made(*layers: Any) -> Transformer:
        return build(attention=load_option("attention", "pattern", layers=list(layers)), n_heads=4, n_kv_heads=2)

    mixed = dict(made("gated_delta", "full").named_parameters())
    assert mixed["blocks.0.attention.key.weight"].shape == (16, 16)
    assert mixed["blocks.1.attention.key.weight"].shape == (8, 16)
    with pytest.raises(ValueError, match=r"model\.n_kv_heads=2: linear attention has no keys and values to keep"):
        made("gated_delta", "mla")
