"""What is said of an attention core, beside counting by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ablab.model.attention.base import AttentionCore
from ablab.model.attention.full import FullAttention
from ablab.model.attention.probe import SAMPLED_QUERIES, AttentionWatcher
from ablab.model.spec import LayerSpec
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
Watch = Callable[..., dict[str, float]]
Uniform = Callable[[Transformer], Transformer]


def test_full_attention_visits_every_earlier_key_and_captures_all_mass(
    build: Build, tokens: Tokens, watch: Watch
) -> None:
    metrics = watch(build().eval(), tokens(2, 21))
    assert metrics["attention/keys_visited"] == pytest.approx(11)
    assert metrics["attention/mass_captured"] == pytest.approx(1)
    assert watch(build(causal=False), tokens(2, 21))["attention/keys_visited"] == pytest.approx(21)


def test_a_window_captures_its_share_of_uniform_mass(
    build: Build, tokens: Tokens, watch: Watch, uniform: Uniform
) -> None:
    metrics = watch(uniform(build(attention="windowed")).eval(), tokens(2, 20))  # window of 5
    assert metrics["attention/keys_visited"] == pytest.approx(sum(min(t, 5) for t in range(1, 21)) / 20)
    assert metrics["attention/mass_captured"] == pytest.approx(sum(min(t, 5) / t for t in range(1, 21)) / 20)


def test_without_causality_mass_lies_on_later_keys_too(
    build: Build, tokens: Tokens, watch: Watch, uniform: Uniform
) -> None:
    metrics = watch(uniform(build(attention="windowed", causal=False)), tokens(2, 20))
    visited = [min(t + 5, 19) - max(t - 5, 0) + 1 for t in range(20)]
    assert metrics["attention/keys_visited"] == pytest.approx(sum(visited) / 20)
    assert metrics["attention/mass_captured"] == pytest.approx(sum(visited) / 20 / 20)


def test_mass_is_that_of_the_softmax_on_the_first_batch(build: Build, tokens: Tokens, watch: Watch) -> None:
    model = build(attention="windowed", n_layers=1, d_model=8, n_heads=1).eval()
    block: Any = model.blocks[0]
    position: Any = model.position
    nn.init.normal_(block.attention.query.weight, generator=torch.Generator().manual_seed(1))
    ids = tokens(1, 12)
    x = block.attention_norm(model.embedding(ids) + position.weight[:12])
    q, k = block.attention.query(x)[0], block.attention.key(x)[0]
    mass = []
    for t in range(12):
        weights = [math.exp(q[t].dot(k[s]).item() / math.sqrt(8)) for s in range(t + 1)]
        mass.append(sum(weights[-5:]) / sum(weights))
    metrics = watch(model, ids, tokens(1, 12, seed=5))
    assert metrics["attention/mass_captured"] == pytest.approx(sum(mass) / 12, rel=1e-5)


def test_lsh_reports_what_its_buckets_bring(build: Build, tokens: Tokens, watch: Watch, uniform: Uniform) -> None:
    model = uniform(build(attention="lsh", n_layers=1)).eval()
    seen: list[Tensor] = []
    block: Any = model.blocks[0]
    core = block.attention.core
    handle = core.register_forward_hook(lambda core, args, out: seen.append(core.visited(*args[:2], torch.arange(30))))
    model(tokens(3, 30))
    handle.remove()
    available = torch.arange(1, 31)
    metrics = watch(model, tokens(3, 30))
    assert metrics["attention/keys_visited"] == pytest.approx(seen[0].sum(-1).float().mean().item())
    assert metrics["attention/mass_captured"] == pytest.approx((seen[0].sum(-1) / available).mean().item(), rel=1e-5)


class OwnAttention(AttentionCore):
    """A user's core that says nothing of the keys it visits."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return v


def test_a_core_that_does_not_describe_itself_has_no_attention_metrics(
    build: Build, tokens: Tokens, watch: Watch
) -> None:
    metrics = watch(build(attention=OwnAttention), tokens(1, 4))
    assert not [name for name in metrics if name.startswith("attention/")]
    assert "activation/zero_share" in metrics


# From here on a core alone, which the watcher is shown as the probe would show it.


class Windowed(AttentionCore):
    """The `reach` keys up to and including the query's own."""

    reach = 1
    takes_slopes = True

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return v

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        distance = positions[:, None] - torch.arange(k.shape[2])
        return (distance >= 0) & (distance < self.reach)


def surroundings(**changes: Any) -> LayerSpec:
    sizes = {"d_model": 16, "n_heads": 4, "d_ff": 32, "layer_index": 0, "n_layers": 1, "max_length": 64}
    return LayerSpec(**(sizes | {"causal": True, "seed": 0} | changes))


def figures(core: nn.Module, *args: Any, causal: bool = True, **kwargs: Any) -> dict[str, float]:
    watcher = AttentionWatcher("attention", 0, core, device=torch.device("cpu"), causal=causal)
    watcher.hook(core, args, kwargs, args[0])
    return watcher.metrics()


def draw(batch: int, heads: int, kv_heads: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q = 2 * torch.randn(batch, heads, length, 4, generator=generator)
    return q, torch.randn(batch, kv_heads, length, 4, generator=generator)


def sampled(length: int) -> list[int]:
    return [round(place) for place in torch.linspace(0, length - 1, min(length, SAMPLED_QUERIES)).tolist()]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.sampled_from([(1, 1), (4, 1), (4, 2), (4, 4)]),
    st.integers(1, 90),
    st.booleans(),
    st.booleans(),
)
def test_full_attention_captures_everything(
    batch: int, heads: tuple[int, int], length: int, causal: bool, share_qk: bool
) -> None:
    share_qk &= heads[0] == heads[1]
    spec = surroundings(n_heads=heads[0], n_kv_heads=heads[1], causal=causal)
    found = figures(FullAttention(spec, share_qk=share_qk), *draw(batch, *heads, length), causal=causal)
    assert found["mass_captured"] == pytest.approx(1, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.integers(1, 100), st.integers(0, 99), st.sampled_from([(2, 1), (4, 2), (2, 2)]))
def test_figures_are_those_of_loops_over_queries_and_keys(
    length: int, reach: int, seed: int, heads: tuple[int, int]
) -> None:
    q, k = draw(2, *heads, length, seed)
    core = Windowed(surroundings(n_heads=heads[0], n_kv_heads=heads[1]))
    core.reach = reach
    keys, mass, distances = [], [], []
    for b in range(2):
        for h in range(heads[0]):
            for i in sampled(length):
                key = k[b, h // (heads[0] // heads[1])]
                weight = [math.exp(q[b, h, i].dot(key[j]).item() / 2) for j in range(i + 1)]
                seen = [j for j in range(i + 1) if i - j < reach]
                keys.append(len(seen))
                mass.append(sum(weight[j] for j in seen) / sum(weight))
                distances.append(sum(weight[j] * (i - j) for j in seen) / sum(weight[j] for j in seen))
    found = figures(core, q, k)
    assert found["keys_visited"] == pytest.approx(sum(keys) / len(keys))
    assert found["mass_captured"] == pytest.approx(sum(mass) / len(mass), rel=1e-4)
    assert found["effective_context"] == pytest.approx(sum(distances) / len(distances), rel=1e-4, abs=1e-6)


def test_mass_falls_with_the_distance_where_scores_do() -> None:
    q, k = (torch.zeros(1, 4, 12, 4) for _ in range(2))
    core, slopes = Windowed(surroundings()), torch.tensor([0.1, 0.4, 1.0, 3.0])
    core.reach = 5
    core.weigh_down(slopes)
    mass = []
    for slope in slopes.tolist():
        for i in range(12):
            weight = [math.exp(-slope * distance) for distance in range(i + 1)]
            mass.append(sum(weight[:5]) / sum(weight))
    assert figures(core, q, k)["mass_captured"] == pytest.approx(sum(mass) / len(mass), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, SAMPLED_QUERIES))
def test_the_context_of_uniform_weights_is_a_mean_over_distances(length: int) -> None:
    q, k = draw(1, 1, 1, length)
    causal = figures(FullAttention(surroundings()), torch.zeros_like(q), k)
    assert causal["effective_context"] == pytest.approx((length - 1) / 4, abs=1e-5)
    both = figures(FullAttention(surroundings(causal=False)), torch.zeros_like(q), k, causal=False)
    assert both["effective_context"] == pytest.approx((length**2 - 1) / (3 * length), rel=1e-5, abs=1e-5)


def test_a_window_of_one_has_no_context() -> None:
    assert figures(Windowed(surroundings()), *draw(3, 2, 2, 80))["effective_context"] == 0


def test_sequences_with_padding_are_passed_over() -> None:
    q, k = draw(3, 2, 2, 12)
    core = Windowed(surroundings())
    core.reach = 4
    padding = torch.zeros(3, 12, dtype=torch.bool)
    padding[0, 8:] = padding[2, :1] = True
    expected = figures(core, q[1:2], k[1:2])
    assert figures(core, q, k, None, padding) == expected
    assert figures(core, q, k, v=None, key_padding_mask=padding) == expected
    assert figures(core, q[::2], k[::2], None, padding[::2]) == {}


def test_rounding_of_the_run_is_not_in_its_metrics() -> None:
    q, k = (x.bfloat16() for x in draw(2, 2, 2, 40))
    expected = figures(Windowed(surroundings()), q.float(), k.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert figures(Windowed(surroundings()), q, k) == expected


@pytest.mark.parametrize("args", [(torch.zeros(2, 5, 16),), (torch.zeros(2, 4, 5, 3), torch.zeros(2, 4, 5, 4)), ()])
def test_a_core_that_is_called_otherwise_has_no_metrics(args: tuple[Tensor, ...]) -> None:
    watcher = AttentionWatcher("attention", 0, Windowed(surroundings()), device=torch.device("cpu"), causal=True)
    watcher.hook(watcher.module, args, {}, None)
    assert watcher.metrics() == {}


def test_values_of_another_size_than_keys_are_nothing_odd() -> None:
    q, k = draw(1, 4, 4, 9)
    assert figures(FullAttention(surroundings()), q, k, torch.zeros(1, 4, 9, 7))["mass_captured"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("told", "found"), [("visited", ["keys_visited", "mass_captured"]), ("weights", ["effective_context"])]
)
def test_a_core_may_tell_half_of_it(told: str, found: list[str]) -> None:
    full, core = FullAttention(surroundings()), nn.Identity()
    setattr(core, told, lambda *where: getattr(full, told)(*where))
    assert list(figures(core, *draw(1, 4, 4, 9))) == found
