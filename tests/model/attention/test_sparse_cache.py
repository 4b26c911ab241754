"""Passes of sparse and compressed attention that go on from a cache, against whole samples, across every edge."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from passes import allocated, error, with_large_weights

from ablab.model.attention import block_sparse, picked, topk
from ablab.model.attention.base import AttentionCore
from ablab.model.attention.layer import AttentionLayer, attention_layer
from ablab.model.position import NoPosition, Rope
from ablab.model.spec import LayerSpec

Load = Callable[..., Any]
Spec = Callable[..., LayerSpec]

# Samples that reach edges together or not, one of which has a single token; passes of odd sizes, and a token at a time.
LENGTHS = ((19, 11, 1), (14, 14))
SIZES = ((7, 1, 3), (1,))

SWITCHES = {"sinks": True, "softcap": 3.0, "output_gate": "head", "qk_norm": True}
ENTRY_SWITCHES = {"sinks": False, "softcap": 3.0, "output_gate": "feature"}
POOLED: dict[str, Any] = {"granularity": "block", "scorer": "pooled", "keys": 8, "block": 4}
SINGLE: dict[str, Any] = {"granularity": "token", "keys": 5, "local_blocks": 0}
INDEXER: dict[str, Any] = {"scorer": "indexer", "index_heads": 2}


def blocks(compressed: int, stride: int, selected: int, count: int, window: int) -> dict[str, Any]:
    sizes = {"compress_block": compressed, "compress_stride": stride, "select_block": selected}
    return sizes | {"selected_blocks": count, "window": window}


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
    ("nsa", blocks(4, 2, 4, 3, window=5), 4),
    ("nsa", blocks(6, 3, 3, 4, window=7) | {"sinks": True, "softcap": 3.0, "qk_norm": True}, 2),
    ("nsa", blocks(4, 4, 8, 3, window=3), 1),
    ("nsa", blocks(2, 1, 2, 3, window=1), 4),
    ("nsa", blocks(50, 10, 10, 3, window=60), 4),
    ("topk", {"keys": 5}, 4),
    ("topk", {"keys": 1, "share_qk": True} | SWITCHES, 4),
    ("topk", {"keys": 3} | SWITCHES, 2),
    ("block_sparse", {"block": 2, "local_blocks": 2, "global_blocks": 1}, 2),
    ("block_sparse", {"block": 3, "local_blocks": 1, "stride": 4, "fixed": True} | SWITCHES, 4),
    ("block_sparse", {"block": 2, "local_blocks": 1, "stride": 5, "random_blocks": 2, "share_qk": True}, 4),
    ("block_sparse", {"block": 3, "local_blocks": 2, "stride": 0, "global_blocks": 1}, 4),
    ("block_sparse", {"block": 2, "local_blocks": 1, "stride": 0, "global_blocks": 0, "share_qk": True}, 4),
    ("csa", {"block": 4, "window": 6, "keys": 2, "index_heads": 2}, 4),
    ("csa", {"block": 3, "window": 5, "keys": 4, "index_size": 6, "q_rank": 8} | ENTRY_SWITCHES, 4),
    ("csa", {"block": 1, "window": 1, "keys": 50, "rope_size": 2}, 4),
    ("hca", {"block": 4, "window": 6}, 4),
    ("hca", {"block": 7, "window": 3, "output_rank": 4, "output_groups": 2} | ENTRY_SWITCHES, 4),
    ("hca", {"block": 50, "window": 5}, 4),
]
NAMES = [f"{option}-{place}" for place, (option, _, _) in enumerate(CASES)]

Build = Callable[..., AttentionLayer]


@pytest.fixture
def build(make_spec: Spec, load_option: Load) -> Build:
    def make(option: str, settings: dict[str, Any], kv_heads: int = 4, **changes: Any) -> AttentionLayer:
        spec = make_spec(n_heads=4, n_kv_heads=None if kv_heads == 4 else kv_heads, max_length=40, **changes)
        layer: AttentionLayer = attention_layer(spec, load_option("attention", option, **settings))
        with_large_weights(layer)
        return layer

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
    assert error(layer, NoPosition(make_spec()), LENGTHS[0], (LENGTHS[0][0],)) < 1e-9  # all at once
    either = (0, 10**9) if option in ("selected", "dsa", "nsa", "block_sparse", "topk") else (picked.GATHER_FROM,)
    for gather_from in either:  # what is seen is gathered, or the rest hidden
        for module in (picked, block_sparse, topk):
            monkeypatch.setattr(module, "GATHER_FROM", gather_from)
        for lengths, sizes in product(LENGTHS, SIZES):
            assert error(layer, rope, lengths, sizes) < 1e-9, (lengths, sizes, gather_from)
        assert error(layer, rope, (19, 11, 5), ((9, 2, 1), 3, 1)) < 1e-9, gather_from  # those that lag behind go on


@pytest.mark.parametrize("share_qk", [False, True])
def test_scores_fall_with_the_distance(share_qk: bool, build: Build, make_spec: Spec) -> None:
    layer = build("topk", {"keys": 4, "share_qk": share_qk})
    assert isinstance(layer.core, AttentionCore)
    layer.core.weigh_down(torch.tensor([0.1, 0.2, 0.4, 0.8], dtype=torch.float64))
    for sizes in SIZES:
        assert error(layer, NoPosition(make_spec()), LENGTHS[0], sizes) < 1e-9


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
        # All tokens, a window, compressed blocks, and the tokens that the next ones are made of
        ("nsa", blocks(6, 3, 3, 3, window=7), (40 + 7 + 12 + 6) * 16),
        ("topk", {}, 40 * 16),
        ("block_sparse", {"block": 4}, 40 * 16),
        ("block_sparse", {"block": 4, "local_blocks": 2, "global_blocks": 1, "stride": 0}, (4 + 8) * 16),
    ],
)
def test_what_is_kept(option: str, settings: dict[str, Any], numbers: int, build: Build) -> None:
    assert build(option, settings, kv_heads=2).cache_numbers(40) == numbers


# One head of 4 coordinates, of which keys are the values; the sums are two numbers for each.
@pytest.mark.parametrize(
    ("option", "settings", "numbers"),
    [
        ("hca", {"block": 8, "window": 6}, 4 * (6 + 5 + 2)),
        ("hca", {"block": 8, "window": 60}, 4 * (40 + 5 + 2)),
        # Sums of the open window, for its own entry and the next, and of the one before; all of it for the indexer, too
        ("csa", {"block": 4, "window": 6}, 4 * (6 + 10 + 6) + 4 * (10 + 6)),
        ("csa", {"block": 4, "window": 6, "index_size": 8}, 4 * (6 + 10 + 6) + 8 * (10 + 6)),
    ],
)
def test_what_is_kept_of_entries(option: str, settings: dict[str, Any], numbers: int, build: Build) -> None:
    assert build(option, settings).cache_numbers(40) == numbers


def test_what_is_not_causal_keeps_nothing(build: Build) -> None:
    for option in ("dsa", "selected", "csa", "hca", "nsa", "topk", "block_sparse"):
        layer = build(option, {}, causal=False)
        assert layer.new_cache(1, 8) is None
        assert layer.cache_numbers(8) is None


def test_long_passes_are_attended_in_slices(build: Build, make_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    rope = Rope(make_spec(n_heads=4, max_length=40), base=100.0).double()
    options = {
        "selected_core": ("dsa", {"keys": 3}),
        "compressed_core": ("csa", {"keys": 3}),
        "nsa_core": ("nsa", blocks(4, 2, 4, 3, window=5)),
        "topk": ("topk", {"keys": 3}),
    }
    for module, (option, settings) in options.items():
        monkeypatch.setattr(f"ablab.model.attention.{module}.SLICE", 400)
        assert error(build(option, settings), rope, (31, 18, 1), (7,)) < 1e-9, option
