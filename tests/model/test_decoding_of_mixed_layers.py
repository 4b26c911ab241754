"""Cached decoding of layers that differ, and of what goes from layer to layer beside the stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_decoding import IN_CHUNKS, LENGTHS, ONE_BY_ONE, difference, double, drawn
from torch import Tensor

from ablab.model.decoding import Decoder, without_cache
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
Load = Callable[..., Any]

__all__ = ["double"]  # a fixture

WINDOW: dict[str, Any] = {"windowed": {"window": 6}}
HASHED: dict[str, Any] = {"lsh": {"buckets": 4, "bucket_size": 3, "dense_below": 0}}
SOME = (19, 11, 3)  # tokens of the samples, beyond each window and block below
WITH_VALUES = ["full", WINDOW, HASHED, {"dsa": {"keys": 4}}]
OF_STATES = ["mla", "gated_delta", "mamba2", {"mla_dsa": {"keys": 4}}]


@pytest.fixture
def mixed(build: Build, load_option: Load) -> Build:
    def make(layers: list[Any], **changes: Any) -> Transformer:
        attention = load_option("attention", "pattern", layers=layers)
        model = build(attention=attention, n_layers=len(layers), max_length=max(LENGTHS), **changes)
        drawn(model)
        return model

    return make


@pytest.mark.parametrize("feed_forward", ["dense", "moe", "hash_moe"])
@pytest.mark.parametrize(
    ("layers", "residual"),
    [
        (WITH_VALUES, "value"),
        (WITH_VALUES, "mhc"),
        (OF_STATES, "plain"),
        (OF_STATES, "attention"),
        (["gated_delta", "full"], "hyper"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_layers_that_differ(
    layers: list[Any], residual: str, feed_forward: str, mixed: Build, tokens: Callable[..., Tensor], double: None
) -> None:
    model = mixed(layers, residual=residual, feed_forward=feed_forward)
    assert without_cache(model) is None
    sizes = ONE_BY_ONE if feed_forward == "moe" else IN_CHUNKS
    assert difference(model, tokens(len(SOME), max(SOME)), SOME, sizes) < 1e-9


def test_one_layer_without_a_cache_takes_it_from_all(mixed: Build, tokens: Callable[..., Tensor], double: None) -> None:
    model = mixed(["full", "gated_delta"])
    last = list(model.layers())[1][1].attention
    last.new_cache = lambda batch, capacity: None  # type: ignore[method-assign]
    assert without_cache(model) == (
        "DeltaRule (layer 1) has no cache: each new token computes the whole sequence again"
    )
    assert Decoder(model, batch=3, capacity=9).nbytes == 3 * 9 * 8
    assert difference(model, tokens(len(LENGTHS), 12), (12, 7, 3), (5, 1, 2)) < 1e-9


@pytest.mark.parametrize("sizes", [ONE_BY_ONE, IN_CHUNKS])
def test_layers_weighed_by_the_mean_of_a_sequence(
    sizes: tuple[int, ...], build: Build, load_option: Load, tokens: Callable[..., Tensor], double: None
) -> None:
    fusion = load_option("layer_fusion", "adaptive", per="sequence")
    model = drawn(build(layer_fusion=fusion, max_length=max(LENGTHS)))
    assert difference(model, tokens(len(LENGTHS), max(LENGTHS)), LENGTHS, sizes) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_mean_keeps(dtype: torch.dtype, build: Build, load_option: Load) -> None:
    model = build(layer_fusion=load_option("layer_fusion", "adaptive", per="sequence")).to(dtype)
    cache = model.layer_fusion.new_cache(3)
    assert cache is not None
    assert cache.nbytes == 3 * model.layer_fusion.cache_numbers() * dtype.itemsize == 3 * 16 * 4
    assert build(layer_fusion="adaptive").layer_fusion.new_cache(3) is None
    assert build(layer_fusion="adaptive").layer_fusion.cache_numbers() == 0
