"""Passes of sparse and compressed attention that go on from a cache, against whole samples, across every edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from passes import allocated, error, with_large_weights

from ablab.model.attention import picked
from ablab.model.attention.layer import AttentionLayer, attention_layer
from ablab.model.position import NoPosition, Rope
from ablab.model.spec import LayerSpec

Load = Callable[..., Any]
Spec = Callable[..., LayerSpec]

# Samples that reach edges together or not, one of which has a single token; passes of odd sizes, and a token at a time.
LENGTHS = ((31, 18, 1), (25, 25))
SIZES = ((1,), (7, 1, 3), (31,))

SWITCHES = {"sinks": True, "softcap": 3.0, "output_gate": "head", "qk_norm": True}
POOLED: dict[str, Any] = {"granularity": "block", "scorer": "pooled", "keys": 8, "block": 4}
SINGLE: dict[str, Any] = {"granularity": "token", "keys": 5, "local_blocks": 0}
INDEXER: dict[str, Any] = {"scorer": "indexer", "index_heads": 2}
# An option, its settings, and how many heads of keys serve four of queries.
CASES: list[tuple[str, dict[str, Any], int]] = [
    ("selected", POOLED, 4),
    ("selected", POOLED | {"window": 6, "first_blocks": 1}, 2),
    ("selected", POOLED | {"keys": 9, "block": 3, "local_blocks": 2} | SWITCHES, 1),
    ("selected", POOLED | INDEXER, 4),
    ("selected", POOLED | INDEXER | {"window": 5} | SWITCHES, 2),
    ("selected", SINGLE | {"scorer": "pooled"}, 4),
    ("selected", SINGLE | {"scorer": "pooled", "window": 3, "first_blocks": 2} | SWITCHES, 2),
    ("selected", SINGLE | INDEXER | {"window": 4, "local_blocks": 1}, 2),
    ("dsa", {"keys": 6}, 4),
    ("dsa", {"keys": 50} | SWITCHES, 2),
]
NAMES = [f"{option}-{place}" for place, (option, _, _) in enumerate(CASES)]

Build = Callable[..., AttentionLayer]


@pytest.fixture
def build(make_spec: Spec, load_option: Load) -> Build:
    def make(option: str, settings: dict[str, Any], kv_heads: int = 4, **changes: Any) -> AttentionLayer:
        spec = make_spec(n_heads=4, n_kv_heads=None if kv_heads == 4 else kv_heads, max_length=40, **changes)
        return with_large_weights(attention_layer(spec, load_option("attention", option, **settings)))

    return make


@pytest.mark.parametrize(("option", "settings", "kv_heads"), CASES, ids=NAMES)
def test_passes_are_the_whole(
    option: str,
    settings: dict[str, Any],
    kv_heads: int,
    build: Build,
    make_spec: Spec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = build(option, settings, kv_heads)
    rope = Rope(make_spec(n_heads=4, max_length=40), base=100.0, share=0.5).double()
    for lengths in LENGTHS:
        for sizes in SIZES:
            assert error(layer, rope, lengths, sizes) < 1e-9, (lengths, sizes)
    assert error(layer, NoPosition(make_spec()), *LENGTHS[0:1], SIZES[1]) < 1e-9
    for gather_from in (0, 10**9):  # all are gathered, or the others hidden
        monkeypatch.setattr(picked, "GATHER_FROM", gather_from)
        assert error(layer, rope, LENGTHS[0], SIZES[1]) < 1e-9, gather_from


@pytest.mark.parametrize(("option", "settings", "kv_heads"), CASES, ids=NAMES)
def test_the_formula_is_what_is_allocated(option: str, settings: dict[str, Any], kv_heads: int, build: Build) -> None:
    layer = build(option, settings, kv_heads)
    for half in (False, True):
        for capacity in (1, 2, 3, 11, 40):
            assert layer.cache_numbers(capacity) == allocated(layer, capacity), (half, capacity)
        layer.bfloat16()


# Heads of 4 coordinates, 2 heads of keys: 16 numbers of keys and values a token.
@pytest.mark.parametrize(
    ("option", "settings", "numbers"),
    [
        ("dsa", {}, 40 * (16 + 4)),  # and a key of the indexer
        ("selected", SINGLE | {"scorer": "pooled"}, 40 * 16),
        ("selected", POOLED, 40 * 16 + 10 * 8 + 8),  # a mean of each block, and the sum of the open one
        ("selected", POOLED | INDEXER, 40 * 16 + 10 * 4 + 4),
    ],
)
def test_what_is_kept(option: str, settings: dict[str, Any], numbers: int, build: Build) -> None:
    assert build(option, settings, kv_heads=2).cache_numbers(40) == numbers


def test_what_is_not_causal_keeps_nothing(build: Build) -> None:
    for option in ("dsa", "selected"):
        layer = build(option, {}, causal=False)
        assert layer.new_cache(1, 8) is None
        assert layer.cache_numbers(8) is None


def test_long_passes_are_attended_in_slices(build: Build, make_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablab.model.attention.selected_core.SLICE", 400)
    rope = Rope(make_spec(n_heads=4, max_length=40), base=100.0).double()
    assert error(build("dsa", {"keys": 6}), rope, (31, 18, 1), (7,)) < 1e-9
