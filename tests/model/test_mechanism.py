"""The probe: what it leaves alone, and how it puts layers together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.mechanism import MechanismProbe
from ablab.model.spec import LayerSpec
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
Watch = Callable[..., dict[str, float]]
Silence = Callable[[Transformer, int, list[int]], None]


def test_watching_changes_nothing(build: Build, attention_option: str, activation_option: str, tokens: Tokens) -> None:
    model = build(attention=attention_option, activation=activation_option, dropout=0.3)
    twin = copy.deepcopy(model)
    probe = MechanismProbe(model)
    probe.attach()
    torch.manual_seed(5)
    expected, state = twin(tokens(2, 30)), torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(model(tokens(2, 30)), expected)
    probe.metrics()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in model.state_dict().items())


def test_detached_it_sees_no_more_and_attached_again_it_starts_afresh(
    build: Build, tokens: Tokens, silence: Silence
) -> None:
    model = build(n_layers=1, d_ff=4).eval()
    probe = MechanismProbe(model)
    silence(model, 0, [0])
    probe.attach()
    model(tokens(1, 4))
    probe.detach()
    silence(model, 0, [])
    model(tokens(1, 4))
    assert probe.metrics()["activation/dead_share"] == pytest.approx(0.25)
    probe.attach()
    assert "activation/dead_share" not in probe.metrics()  # nothing seen yet
    model(tokens(1, 4))
    assert probe.metrics()["activation/dead_share"] == 0
    probe.detach()


def test_one_layer_is_not_listed_twice(build: Build, tokens: Tokens, watch: Watch) -> None:
    assert not [name for name in watch(build(n_layers=1), tokens(1, 4)) if "layer_" in name]


class Telling(nn.Module):
    """An activation that reports its layer in several ways, and one part of itself."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.layer = spec.layer_index

    def forward(self, x: Tensor) -> Tensor:
        return x

    def mechanism(self) -> dict[str, float]:
        return {f"width{kind}": self.layer + 1.0 for kind in ("", "_min", "_max", "/head_0")}


def test_layers_become_a_mean_or_an_extreme_and_parts_stay_apart(build: Build, tokens: Tokens, watch: Watch) -> None:
    metrics = watch(build(activation=Telling, n_layers=3), tokens(1, 4))
    assert {name: value for name, value in metrics.items() if "width" in name} == {
        "activation/width": 2.0,
        "activation/width_min": 1.0,
        "activation/width_max": 3.0,
        **{f"activation/width{kind}/layer_{n}": n + 1.0 for kind in ("", "_min", "_max") for n in range(3)},
        **{f"activation/width/layer_{n}/head_0": n + 1.0 for n in range(3)},
    }
    alone = watch(build(activation=Telling, n_layers=1), tokens(1, 4))
    assert [name for name in alone if "width" in name] == [
        f"activation/width{kind}" for kind in ("", "_min", "_max", "/head_0")
    ]


def test_a_layer_of_attention_may_report_of_itself_too(build: Build, tokens: Tokens, watch: Watch) -> None:
    model = build(n_layers=1)
    block: Any = model.blocks[0]
    block.attention.mechanism = lambda: {"gate": 0.25}
    metrics = watch(model, tokens(1, 4))
    assert metrics["attention/gate"] == 0.25
    assert metrics["attention/mass_captured"] == pytest.approx(1)
