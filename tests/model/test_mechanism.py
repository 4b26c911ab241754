from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.mechanism import MechanismProbe
from ablab.model.spec import LayerSpec
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(seed))


def watch(model: Transformer, *batches: Tensor) -> dict[str, float]:
    probe = MechanismProbe(model)
    probe.attach()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    probe.detach()
    return probe.metrics()


def uniform(model: Transformer) -> Transformer:
    """No queries: full attention weighs all keys alike, so that shares of mass are shares of keys."""
    for block in model.blocks:
        nn.init.zeros_(block.attention.query.weight)
    return model


def test_full_attention_visits_every_earlier_key_and_captures_all_mass(build: Build) -> None:
    metrics = watch(build().eval(), tokens(2, 21))
    assert metrics["attention/keys_visited"] == pytest.approx(11)
    assert metrics["attention/mass_captured"] == pytest.approx(1)
    assert watch(build(causal=False), tokens(2, 21))["attention/keys_visited"] == pytest.approx(21)


def test_a_window_captures_its_share_of_uniform_mass(build: Build) -> None:
    metrics = watch(uniform(build(attention="windowed")).eval(), tokens(2, 20))  # window of 5
    assert metrics["attention/keys_visited"] == pytest.approx(sum(min(t, 5) for t in range(1, 21)) / 20)
    assert metrics["attention/mass_captured"] == pytest.approx(sum(min(t, 5) / t for t in range(1, 21)) / 20)


def test_without_causality_mass_lies_on_later_keys_too(build: Build) -> None:
    metrics = watch(uniform(build(attention="windowed", causal=False)), tokens(2, 20))
    visited = [min(t + 5, 19) - max(t - 5, 0) + 1 for t in range(20)]
    assert metrics["attention/keys_visited"] == pytest.approx(sum(visited) / 20)
    assert metrics["attention/mass_captured"] == pytest.approx(sum(visited) / 20 / 20)


def test_mass_is_that_of_the_softmax_on_the_first_batch(build: Build) -> None:
    model = build(attention="windowed", n_layers=1, d_model=8, n_heads=1).eval()
    nn.init.normal_(model.blocks[0].attention.query.weight, generator=torch.Generator().manual_seed(1))
    ids = tokens(1, 12)
    block = model.blocks[0]
    x = block.attention_norm(model.embedding(ids) + model.position.weight[:12])
    q, k = block.attention.query(x)[0], block.attention.key(x)[0]
    mass = []
    for t in range(12):
        weights = [math.exp(q[t].dot(k[s]).item() / math.sqrt(8)) for s in range(t + 1)]
        mass.append(sum(weights[-5:]) / sum(weights))
    metrics = watch(model, ids, tokens(1, 12, seed=5))
    assert metrics["attention/mass_captured"] == pytest.approx(sum(mass) / 12, rel=1e-5)


def test_lsh_reports_what_its_buckets_bring(build: Build) -> None:
    model = uniform(build(attention="lsh", n_layers=1)).eval()
    seen: list[Tensor] = []
    core = model.blocks[0].attention.core
    handle = core.register_forward_hook(lambda core, args, out: seen.append(core.visited(*args[:2], torch.arange(30))))
    model(tokens(3, 30))
    handle.remove()
    available = torch.arange(1, 31)
    metrics = watch(model, tokens(3, 30))
    assert metrics["attention/keys_visited"] == pytest.approx(seen[0].sum(-1).float().mean().item())
    assert metrics["attention/mass_captured"] == pytest.approx((seen[0].sum(-1) / available).mean().item(), rel=1e-5)


def silence(model: Transformer, layer: int, units: list[int]) -> None:
    """Let these hidden units be always zero after ReLU, and all others of the layer never."""
    up = model.blocks[layer].feed_forward.up
    nn.init.zeros_(up.weight)
    nn.init.ones_(up.bias)
    with torch.no_grad():
        up.bias[units] = -1


def test_zero_and_dead_shares_by_hand(build: Build) -> None:
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


def test_one_token_keeps_a_unit_alive(build: Build) -> None:
    metrics = watch(build(activation=OnFirstToken, n_layers=1, d_ff=4), tokens(2, 3), tokens(2, 5))
    assert metrics["activation/dead_share"] == pytest.approx(2 / 4)
    assert metrics["activation/zero_share"] == pytest.approx(1 - (16 + 1) / (16 * 4))


def test_dynamic_sparse_reports_its_threshold(build: Build, load_option: Callable[..., Any]) -> None:
    activation = load_option("activation", "dynamic_sparse", initial=0.25, scale=2.0)
    metrics = watch(build(activation=activation).eval(), tokens(1, 4))
    assert metrics["activation/threshold"] == pytest.approx(0.5)
    assert metrics["activation/threshold/layer_1"] == pytest.approx(0.5)


class OwnAttention(nn.Module):
    """A user's core that says nothing of the keys it visits."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return v


def test_a_core_that_does_not_describe_itself_has_no_attention_metrics(build: Build) -> None:
    metrics = watch(build(attention=OwnAttention), tokens(1, 4))
    assert not [name for name in metrics if name.startswith("attention/")]
    assert "activation/zero_share" in metrics


def test_watching_changes_nothing(build: Build, attention_option: str, activation_option: str) -> None:
    model = build(attention=attention_option, activation=activation_option, dropout=0.3)
    twin = build(attention=attention_option, activation=activation_option, dropout=0.3)
    probe = MechanismProbe(model)
    probe.attach()
    torch.manual_seed(5)
    expected, state = twin(tokens(2, 30)), torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(model(tokens(2, 30)), expected)
    probe.metrics()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in model.state_dict().items())


def test_detached_it_sees_no_more_and_attached_again_it_starts_afresh(build: Build) -> None:
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


def test_one_layer_is_not_listed_twice(build: Build) -> None:
    assert not [name for name in watch(build(n_layers=1), tokens(1, 4)) if "layer_" in name]
