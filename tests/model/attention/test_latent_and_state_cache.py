"""Passes of latent, linear and hashed attention that go on from a cache, against whole samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from passes import allocated, error, steps, with_large_weights
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ablab.model.attention.cache import LayerCache, Slots
from ablab.model.attention.layer import AttentionLayer, attention_layer
from ablab.model.attention.linear import StateCache
from ablab.model.attention.mla import LatentAttention
from ablab.model.attention.recurrence import DeltaRule, Recurrence, StateSpace
from ablab.model.context import LayerContext
from ablab.model.position import NoPosition, Rope
from ablab.model.spec import LayerSpec

Load = Callable[..., Any]
Spec = Callable[..., LayerSpec]
Build = Callable[..., AttentionLayer]

# Samples, and passes: prompts of unequal lengths that go on; 7 new tokens are more than a head has coordinates.
PASSES: tuple[tuple[tuple[int, ...], tuple[Any, ...]], ...] = (
    ((26, 15, 6, 12), ((17, 5, 1, 0), 1)),
    ((31, 18, 3), ((9, 2, 1), 7, 1, 3)),
    ((25, 25), (7, 1, 3)),
)
SWITCHES: dict[str, Any] = {"sinks": True, "softcap": 3.0, "output_gate": "head"}
HASHED: dict[str, Any] = {"buckets": 4, "bucket_size": 3, "dense_below": 0}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("mla", {}),
    ("mla", {"kv_rank": 3, "q_rank": 5, "rope_size": 4}),
    ("mla", {"sinks": True, "output_gate": "feature"}),
    ("mla", {"softcap": 2.0}),
    ("mla", {"kv_rank": 20} | SWITCHES),
    ("mla_dsa", {"keys": 5}),
    ("mla_dsa", {"keys": 3, "kv_rank": 3, "q_rank": 5, "index_size": 6} | SWITCHES),
    ("gated_delta", {"chunk": 4, "key_heads": 2, "key_size": 3, "value_size": 5, "negative_eigenvalues": True}),
    ("gated_delta", {"conv_size": 1, "decay": False, "gate": False}),
    ("gated_delta", {"conv_size": 9, "chunk": 3}),
    ("mamba2", {"chunk": 4, "groups": 2, "state_size": 3}),
    ("mamba2", {"conv_size": 1, "groups": 4, "expand": 1}),
    ("lsh", HASHED | {"rounds": 3} | SWITCHES),
    ("lsh", HASHED | {"share_qk": True}),
    ("lsh", {"dense_below": 40, "share_qk": True}),
    ("dynamic", HASHED | {"window": 6, "ramp": 2.0, "span_per_query": True} | SWITCHES),
    ("dynamic", HASHED | {"window": 6, "adapt_size": False, "share_qk": True}),
    ("dynamic", {"window": 6, "ramp": 2.0, "adapt_position": False, "share_qk": True}),
    ("dynamic", {"window": 6, "ramp": 2.0, "dense_below": 40}),
]


@pytest.fixture
def build(make_spec: Spec, load_option: Load) -> Build:
    def make(option: str, settings: dict[str, Any], **changes: Any) -> AttentionLayer:
        spec = make_spec(**({"n_heads": 4, "max_length": 40} | changes))
        layer = attention_layer(spec, load_option("attention", option, **settings))
        with_large_weights(layer)
        return layer

    return make


@pytest.mark.parametrize(("option", "settings"), CASES)
def test_passes_give_what_whole_samples_give(
    option: str, settings: dict[str, Any], build: Build, make_spec: Spec
) -> None:
    layer = build(option, settings)
    position = Rope(make_spec(n_heads=4, max_length=40), base=100.0).double()
    for lengths, sizes in PASSES:
        assert error(layer, position, lengths, sizes) < 1e-9, (lengths, sizes)
    assert error(build(option, settings, bias=False), NoPosition(make_spec()), (12, 5), (3, 1)) < 1e-9


@pytest.mark.parametrize(("option", "settings"), CASES)
@pytest.mark.parametrize("capacity", [3, 40])
def test_the_formula_counts_what_is_allocated(
    option: str, settings: dict[str, Any], capacity: int, build: Build
) -> None:
    layer = build(option, settings)
    assert allocated(layer, capacity) == layer.cache_numbers(capacity)
    narrow = layer.to(torch.bfloat16)
    assert allocated(narrow, capacity) == narrow.cache_numbers(capacity)


@pytest.mark.parametrize(
    ("option", "settings", "numbers"),
    [
        ("mla", {"kv_rank": 5, "rope_size": 4}, 40 * (5 + 4)),
        ("mla_dsa", {"kv_rank": 5, "rope_size": 4, "index_size": 6}, 40 * (5 + 4 + 6)),
        ("gated_delta", {"key_size": 3, "value_size": 5}, 4 * 3 * 5 + 3 * 4 * (3 + 3 + 5)),
        ("mamba2", {"expand": 2, "state_size": 3, "groups": 2}, 3 * 32 + 3 * (32 + 2 * 2 * 3)),
        ("lsh", HASHED | {"rounds": 2}, 40 * 4 * (2 * 4 + 2)),
        ("lsh", {"dense_below": 41}, 40 * 4 * 2 * 4),
        ("dynamic", HASHED | {"rounds": 2}, 40 * 4 * (2 * 4 + 2)),
        ("dynamic", {"adapt_position": False, "window": 6, "ramp": 2.0}, 6 * 4 * 2 * 4),
    ],
)
def test_what_is_kept(option: str, settings: dict[str, Any], numbers: int, build: Build) -> None:
    assert build(option, settings).cache_numbers(40) == numbers


@pytest.mark.parametrize("option", ["mla", "mla_dsa", "gated_delta", "mamba2", "lsh", "dynamic"])
def test_what_is_not_causal_keeps_nothing(option: str, build: Build) -> None:
    layer = build(option, {}, causal=False)
    assert layer.new_cache(1, 8) is None
    assert layer.cache_numbers(8) is None


def test_a_token_makes_no_keys_and_values(build: Build, make_spec: Spec) -> None:
    layer = build("mla", {})
    assert isinstance(layer, LatentAttention)
    made: list[Tensor] = []
    for projection in (layer.key, layer.value):
        assert isinstance(projection, nn.Module)
        projection.register_forward_hook(lambda module, args, out: made.append(out))
    assert error(layer, NoPosition(make_spec()), (9, 9), (6, 1)) < 1e-9
    assert len(made) == 2 + 2 * 2  # of the first pass, and of two whole samples; three tokens made none


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("option", ["gated_delta", "mamba2"])
def test_a_sample_without_new_tokens_keeps_state_and_tail(option: str, size: int, build: Build) -> None:
    layer = build(option, {})
    cache = layer.new_cache(2, 40)
    assert isinstance(cache, StateCache)
    for step, counts in steps((11, 6), (6, size)):
        before = cache.state.clone(), cache.tail.clone()
        x = torch.randn(2, step.positions.shape[1], 16, dtype=torch.float64)
        layer.extend(x, LayerContext(step=step), cache)
        for kept, now in zip(before, (cache.state, cache.tail), strict=True):
            assert torch.equal(kept[1], now[1]) == (counts[1] == 0)
            assert not torch.equal(kept[0], now[0])


@pytest.mark.parametrize("option", ["gated_delta", "mamba2"])
def test_states_have_single_precision(option: str, build: Build) -> None:
    cache = build(option, {}).to(torch.bfloat16).new_cache(1, 8)
    assert cache is not None
    assert {each.dtype for each in cache.tensors()} == {torch.float32}


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"dense_below": 0}, {"dense_below": 20}, {"dense_below": 0, "factored": True}])
@pytest.mark.parametrize("option", ["lsh", "dynamic"])
def test_the_room_stands_for_the_length(option: str, settings: dict[str, Any], build: Build) -> None:
    """With as many buckets as a length has, passes give what the sample gives that is padded to all of the room."""
    window = {"window": 4, "ramp": 2.0} if option == "dynamic" else {}
    layer = build(option, {"bucket_size": 5, "rounds": 2} | window | settings)
    x = torch.randn(2, 36, 16, generator=torch.Generator().manual_seed(0)).double()
    padded = layer(x, lambda q, k: (q, k), torch.arange(36).expand(2, -1) >= 15)[:, :15]
    short = layer(x[:, :15], lambda q, k: (q, k))
    cache = layer.new_cache(2, 36)
    assert cache is not None
    parts = []
    for step, _ in steps((15, 15), (6, 1, 1, 7)):
        new = x[:, step.positions[0]]
        parts.append(layer.extend(new, LayerContext(step=step), cache))
    assert (torch.cat(parts, 1) - padded).abs().max() < 1e-9
    assert (padded - short).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("kind", "products"), [(DeltaRule, 3), (StateSpace, 2)])
def test_flops_of_a_step_are_counted(kind: type[Recurrence], products: int) -> None:
    """Of reading the state, once or twice, and of writing to it."""
    q, v, one = torch.ones(2, 3, 1, 5), torch.ones(2, 3, 1, 7), torch.ones(2, 3, 1)
    core = kind(chunk=4)
    state = torch.zeros(2, *core.state_shape(3, 3, 5, 7))
    with FlopCounterMode(display=False) as counter:
        core.onward(q, q, v, -one, one, state=state)
    assert counter.get_total_flops() == products * 2 * (2 * 3 * 5 * 7)


class Named(LayerCache):
    """A state by its name, beside keys of which each token has its place."""

    def __init__(self, keys: Slots, state: Tensor | None = None) -> None:
        self.keys, self.named = keys, {} if state is None else {"state": state}

    def tensors(self) -> Iterator[Tensor]:
        yield from self.keys.tensors()
        yield from self.named.values()


def test_a_state_has_no_places_wherever_a_cache_keeps_it() -> None:
    keys = Slots(2, 1, 9, 4, like=torch.zeros(1))
    assert Named(keys).places(9)
    assert not Named(keys).places(10)
    assert not Named(keys, torch.zeros(2, 3)).places(9)
    listed = LayerCache()
    listed.states = [{"first": torch.zeros(2, 3)}]  # type: ignore[attr-defined]
    assert not listed.places(9)
    assert len(listed.mark()) == 1
