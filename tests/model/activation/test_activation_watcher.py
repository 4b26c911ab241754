"""Zeros and dead units, beside counting by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.spec import LayerSpec
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
Watch = Callable[..., dict[str, float]]
Silence = Callable[[Transformer, int, list[int]], None]


def test_zero_and_dead_shares_by_hand(build: Build, tokens: Tokens, watch: Watch, silence: Silence) -> None:
    model = build(d_ff=10).eval()
    silence(model, 0, [0, 3, 4])
    silence(model, 1, [9])
    metrics = watch(model, tokens(2, 8), tokens(1, 5))
    assert metrics["activation/dead_share/layer_0"] == pytest.approx(0.3)
    assert metrics["activation/dead_share/layer_1"] == pytest.approx(0.1)
    assert metrics["activation/dead_share"] == metrics["activation/zero_share"] == pytest.approx(0.2)


class OnFirstToken(nn.Module):
    """Passes unit 0 on the first position of the first batch only, unit 1 always, the rest never."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[..., 1] = 1
        if self.calls == 0:
            y[0, 0, 0] = 1
        self.calls += 1
        return y


def test_one_token_keeps_a_unit_alive(build: Build, tokens: Tokens, watch: Watch) -> None:
    metrics = watch(build(activation=OnFirstToken, n_layers=1, d_ff=4), tokens(2, 3), tokens(2, 5))
    assert metrics["activation/dead_share"] == pytest.approx(2 / 4)
    assert metrics["activation/zero_share"] == pytest.approx(1 - (16 + 1) / (16 * 4))


def test_what_a_limit_changes_by_hand(
    build: Build, load_option: Callable[..., Any], tokens: Tokens, watch: Watch
) -> None:
    activation = load_option("activation", "clamped_swiglu", limit=0.05)
    model, ids, met = build(activation=activation, n_layers=1).eval(), tokens(2, 8), list[Tensor]()
    core: Any = model.blocks[0]
    core.feed_forward.activation.register_forward_hook(lambda module, args, out: met.append(args[0]))
    metrics = watch(model, ids)
    gate, value = met[0].chunk(2, -1)
    expected = ((gate > 0.05) | (value > 0.05) | (value < -0.05)).double().mean().item()
    assert 0.1 < expected < 0.9
    assert metrics["activation/limited_share"] == pytest.approx(expected)
    assert "activation/limited_share" not in watch(build(n_layers=1).eval(), ids)


def test_dynamic_sparse_reports_its_threshold(
    build: Build, load_option: Callable[..., Any], tokens: Tokens, watch: Watch
) -> None:
    activation = load_option("activation", "dynamic_sparse", initial=0.25, scale=2.0)
    metrics = watch(build(activation=activation).eval(), tokens(1, 4))
    assert metrics["activation/threshold"] == pytest.approx(0.5)
    assert metrics["activation/threshold/layer_1"] == pytest.approx(0.5)


@pytest.mark.parametrize("option", ["relu", "relu_squared", "dynamic_sparse"])
def test_dead_units_show_whatever_is_claimed_of_the_activation(
    build: Build, load_option: Callable[..., Any], tokens: Tokens, watch: Watch, silence: Silence, option: str
) -> None:
    """A threshold that adapts is said to avoid them; the figure must be able to say that it does not."""
    model = build(activation=load_option("activation", option), d_ff=10)
    for seed in range(20):
        model(tokens(2, 8, seed))  # thresholds find their level
    silence(model, 0, [1, 2, 5])
    metrics = watch(model.eval(), tokens(4, 8), tokens(4, 8, 1))
    assert metrics["activation/dead_share/layer_0"] >= 0.3
    assert metrics["activation/dead_share/layer_1"] < 0.3


@pytest.mark.parametrize("option", ["swiglu", "geglu"])
def test_the_units_of_a_gate_are_what_comes_out_of_it(
    build: Build, load_option: Callable[..., Any], tokens: Tokens, watch: Watch, option: str
) -> None:
    model = build(activation=load_option("activation", option), d_ff=12, n_layers=1)
    block: Any = model.blocks[0]
    part = block.feed_forward
    width = part.down.in_features
    with torch.no_grad():  # the value of the last unit, not its gate
        part.up.weight[-1] = 0
        part.up.bias[-1] = 0
    metrics = watch(model.eval(), tokens(2, 8))
    assert metrics["activation/dead_share"] == metrics["activation/zero_share"] == pytest.approx(1 / width)


@pytest.mark.parametrize("length", [64, 2048])  # in one product, and by turns
def test_hidden_units_are_those_of_each_expert(
    build: Build, load_option: Callable[..., Any], tokens: Tokens, watch: Watch, length: int
) -> None:
    settings = {"n_experts": 4, "top_k": 1, "n_shared": 0, "expert_bias": True}
    experts = load_option("feed_forward", "moe", **settings)
    model = build(feed_forward=experts, activation="relu", n_layers=1, max_length=length, position="none", d_model=64)
    part: Any = model.blocks[0]
    with torch.no_grad():
        part.feed_forward.experts.up_bias.fill_(100.0)
        part.feed_forward.experts.up_bias[:3] = -100.0  # never, whatever comes; the fourth's always
        part.feed_forward.router.weight.normal_(std=2.0, generator=torch.Generator().manual_seed(0))
    metrics = watch(model.eval(), tokens(8, length))
    assert metrics["feed_forward/dead_experts"] == 0
    assert metrics["activation/dead_share"] == 0.75


def test_routed_and_shared_experts_count_by_their_units_and_tokens(
    build: Build, load_option: Callable[..., Any], tokens: Tokens, watch: Watch
) -> None:
    experts = load_option("feed_forward", "moe", n_experts=4, top_k=3, n_shared=1, expert_bias=True)
    model = build(feed_forward=experts, activation="relu", n_layers=1).eval()
    part: Any = model.blocks[0]
    with torch.no_grad():
        part.feed_forward.experts.up_bias.fill_(100.0)
        part.feed_forward.shared.up.bias.fill_(-100.0)
    metrics = watch(model, tokens(2, 64))
    assert metrics["activation/zero_share"] == 1 / (3 + 1)  # of the rows of a token
    assert metrics["activation/dead_share"] == 1 / (4 + 1)  # of the units
