"""Our weights and those of `transformers`, by name: DeepSeek-V2, V3, V3.2 and V4.

Theirs rotate pairs of neighbours where ours rotate coordinates half apart (but for the indexer of V3.2, which is as
ours), so that what is rotated comes in another order. Modules that predict further tokens are not part of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from ablab.export.conversions import SAME, TRANSPOSED, Conversion, Halves, Link, Parts, Then, Weights, grouped, link
from ablab.export.llama import around, experts, gated, norms, pairs
from ablab.model.attention.compressed_layer import CompressedAttention
from ablab.model.attention.mla import LatentLayer
from ablab.model.attention.mla_dsa import LatentSparseAttention
from ablab.model.feed_forward.experts import HashedExperts, MixtureOfExperts
from ablab.model.transformer import Transformer


def deepseek_v2(model: Transformer, corrected: bool = False) -> Iterator[Link]:
    """V2, and with biases that count in the choice of experts V3 and V3.2."""
    yield from around(model)
    for layer, block in model.layers():
        yield from norms(layer)
        yield from _feed_forward(layer, block.feed_forward, corrected)
        yield from _latent_attention(layer, cast(LatentLayer, block.attention), model.n_heads)
        if isinstance(block.attention, LatentSparseAttention):
            yield from _indexer(layer)


deepseek_v3 = partial(deepseek_v2, corrected=True)


def deepseek_v4(model: Transformer) -> Iterator[Link]:
    yield from around(model)
    names = {"weight": "fn", "bias": "base", "gates": "scale"}
    yield from (link(f"ends.{name}", f"model.hc_head.hc_{public}") for name, public in names.items())
    for layer, block in model.layers():
        yield from norms(layer)
        yield from _feed_forward(layer, block.feed_forward, corrected=True)
        yield from _compressed_attention(layer, cast(CompressedAttention, block.attention))
        for part, its in (("attention", "attn_hc"), ("feed_forward", "ffn_hc")):
            own, its = f"blocks.{layer}.{part}_residual", f"model.layers.{layer}.{its}"
            yield from (link(f"{own}.{name}", f"{its}.{public}") for name, public in names.items())


def _feed_forward(layer: int, part: object, corrected: bool) -> Iterator[Link]:
    own, its = f"blocks.{layer}.feed_forward", f"model.layers.{layer}.mlp"
    if not isinstance(part, MixtureOfExperts):
        yield from gated(own, its)
        return
    yield from experts(own, its)
    yield from gated(f"{own}.shared", f"{its}.shared_experts")
    if corrected and not isinstance(part, HashedExperts):
        yield link(f"{own}.router.bias", f"{its}.gate.e_score_correction_bias")


def _latent_attention(layer: int, attention: LatentLayer, heads: int) -> Iterator[Link]:
    own, its = f"blocks.{layer}.attention.", f"model.layers.{layer}.self_attn."
    size, rope = attention.head_size, attention.rope_size
    rank = attention.key.in_features
    rotated = Halves(0, size + rope, start=size)
    latent = {"latent.1": "kv_a_layernorm", "output": "o_proj", "query_latent.0": "q_a_proj"}
    yield from pairs(own, its, latent | {"query_latent.1": "q_a_layernorm"})
    query = "q_proj" if isinstance(attention.query_latent, nn.Identity) else "q_b_proj"
    yield from pairs(own, its, {"query": query}, rotated)
    joined = Then(Halves(0, rank + rope, start=rank), Parts((rank, rope)))
    for kind in ("weight", "bias"):
        yield link([f"{own}latent.0.{kind}", f"{own}rotated_key.{kind}"], f"{its}kv_a_proj_with_mqa.{kind}", joined)
    yield link([f"{own}key.weight", f"{own}value.weight"], f"{its}kv_b_proj.weight", Parts((1, 1), heads))


def _indexer(layer: int) -> Iterator[Link]:
    own, its = f"blocks.{layer}.attention.indexer.", f"model.layers.{layer}.self_attn.indexer."
    names = {"query": "wq_b", "key": "wk", "key_norm": "k_norm", "weight": "weights_proj"}
    yield from pairs(own, its, names)


def _compressed_attention(layer: int, attention: CompressedAttention) -> Iterator[Link]:
    own, its = f"blocks.{layer}.attention.", f"model.layers.{layer}.self_attn."
    size, rope = attention.head_size, attention.rope.cos.shape[1]
    groups = len(attention.get_submodule("output.0").get_parameter("weight"))
    yield from pairs(own, its, {"query_latent.0": "q_a_proj", "query_latent.1": "q_a_norm", "output.1": "o_b_proj"})
    names = {"query": "q_b_proj", "key": "kv_proj", "key_norm": "kv_norm"}
    yield from pairs(own, its, names, _rotated(0, size, rope))
    yield link(f"{own}core.sinks", f"{its}sinks")
    by_groups = Then(grouped(groups), TRANSPOSED, _rotated(1, size, rope))
    yield link(f"{own}output.0.weight", f"{its}o_a_proj.weight", by_groups)
    yield from _compressor(f"{own}compressor", f"{its}compressor", size, rope)
    if attention.indexer is not None:
        own, its = f"{own}indexer", f"{its}compressor.indexer"
        index_size = attention.indexer.compressor.size
        yield link(f"{own}.query.weight", f"{its}.q_b_proj.weight", _rotated(0, index_size, rope))
        yield link(f"{own}.weight.weight", f"{its}.scorer.weights_proj.weight")
        yield from _compressor(f"{own}.compressor", its, index_size, rope)


def _compressor(own: str, its: str, size: int, rope: int) -> Iterator[Link]:
    names = {"content.weight": "kv_proj.weight", "gate.weight": "gate_proj.weight", "norm.weight": "kv_norm.weight"}
    for name, public in names.items():
        yield link(f"{own}.{name}", f"{its}.{public}", _rotated(0, size, rope))
    yield link(f"{own}.place", f"{its}.position_bias", _rotated(1, size, rope))


def _rotated(dim: int, size: int, rope: int) -> Conversion:
    """Heads whose trailing coordinates are rotated."""
    return Halves(dim, size, start=size - rope, count=rope) if rope else SAME


def mixtures(model: Transformer) -> list[MixtureOfExperts]:
    """The feed-forward parts that have experts."""
    parts = (block.feed_forward for _, block in model.layers())
    return [part for part in parts if isinstance(part, MixtureOfExperts)]


def routed_units(model: Transformer) -> int:
    """Hidden units of an expert of theirs, of which the shared ones have as many each as those that are routed to.

    Ours are one wider part, whose width is rounded by itself: they may differ by a unit, and one may be idle.
    """
    part = mixtures(model)[0]
    shared = 0 if part.shared is None else math.ceil(part.shared.down.in_features / part.n_shared)
    return max(shared, int(part.experts.down.shape[1]))


def widened(model: Transformer, ours: Weights) -> Weights:
    """Our weights with units that are zero where theirs are to be wider."""
    wide, units = dict(ours), routed_units(model)
    for layer, block in model.layers():
        if not isinstance(part := block.feed_forward, MixtureOfExperts):
            continue
        own = f"blocks.{layer}.feed_forward"
        wide |= _padded(wide, f"{own}.experts.up", f"{own}.experts.down", units, dim=2)
        wide |= _padded(wide, f"{own}.shared.up.weight", f"{own}.shared.down.weight", units * part.n_shared, dim=0)
    return wide


def _padded(weights: Weights, up: str, down: str, units: int, dim: int) -> Weights:
    """Two layers around a gate, of so many hidden units: gates, then values along `dim` of the first of the two."""
    gates, values = (_longer(each, units, dim) for each in weights[up].chunk(2, dim))
    return {up: torch.cat([gates, values], dim), down: _longer(weights[down], units, 1)}


def _longer(x: Tensor, length: int, dim: int) -> Tensor:
    shape = [*x.shape[:dim], length - x.shape[dim], *x.shape[dim + 1 :]]
    return torch.cat([x, x.new_zeros(shape)], dim)
