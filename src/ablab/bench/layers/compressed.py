"""Attention to keys that an indexer picks and to compressed keys, beside the layers of DeepSeek-V3.2 and V4.

The keys and values of V3.2 come from latents, which ours has not: it has weights of its own, as many heads of the same
size, and as many keys picked. Both leave out what an indexer learns by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ablab.bench.layers.pair import Kind, Layer, Sizes, copy, model, option, peer, randomised
from ablab.model.context import unrotated
from ablab.model.position import Rope

BLOCKS = {"csa": 4, "hca": 128}  # tokens to an entry, as published
ALIKE = {"csa": 0.95, "hca": 1.0}
BASE = 10000.0  # of the rotation's wavelengths
WAYS = ("eager", "sdpa")
# Of an indexer. Where all of them find nothing alike scores are equal, and which key is picked is a matter of taste.
INDEX_HEADS = 8


def kinds() -> list[Kind]:
    """All three."""
    alike = {f"deepseek-v32-{way}": partial(_deepseek_v32, way) for way in WAYS}
    return [
        Kind(name="dsa", ours=_dsa, call=_rotated, peers=alike),
        *(
            Kind(
                name=name,
                ours=partial(_compressed, name),
                call=_by_itself,
                peers={"deepseek-v4": _deepseek_v4},
                alike=ALIKE[name],
            )
            for name in BLOCKS
        ),
    ]


def _dsa(sizes: Sizes, length: int) -> Any:
    return option("attention", "dsa", sizes, length, keys=sizes.keys, index_heads=INDEX_HEADS)


def _compressed(name: str, sizes: Sizes, length: int) -> Any:
    sized = {"keys": sizes.keys, "index_heads": INDEX_HEADS} if name == "csa" else {}
    return option(
        "attention", name, sizes, length, block=BLOCKS[name], window=sizes.window, q_rank=sizes.width // 2, **sized
    )


def _rotated(ours: Any, sizes: Sizes, length: int) -> Callable[[Tensor], Tensor]:
    rotate = Rope(sizes.spec(length), base=BASE).rotate
    return lambda x: _without_learning(ours, ours(x, rotate))


def _by_itself(ours: Any, sizes: Sizes, length: int) -> Callable[[Tensor], Tensor]:
    return lambda x: _without_learning(ours, ours(x, unrotated))


def _without_learning(ours: Any, out: Tensor) -> Tensor:
    """Lets go of what the indexer is to learn."""
    learning = getattr(ours.core, "learning", None)
    if learning is not None:
        learning.asked = None
    return out


def _deepseek_v32(way: str, ours: Any, sizes: Sizes, length: int) -> Layer:
    module, size = model("deepseek_v32"), sizes.width // sizes.heads
    config = module.DeepseekV32Config(
        hidden_size=sizes.width, num_attention_heads=sizes.heads, num_key_value_heads=sizes.heads,
        q_lora_rank=sizes.width // 2, kv_lora_rank=sizes.width // 2, qk_rope_head_dim=size // 2,
        qk_nope_head_dim=size // 2, v_head_dim=size, index_n_heads=INDEX_HEADS, index_head_dim=size,
        index_topk=sizes.keys, num_hidden_layers=1, max_position_embeddings=length,
        rope_parameters={"rope_type": "default", "rope_theta": BASE},
    )  # fmt: skip
    config._attn_implementation = way
    theirs = randomised(module.DeepseekV32Attention(config, 0))
    places = torch.arange(length).expand(sizes.batch, -1)
    turns = module.DeepseekV32RotaryEmbedding(config)(torch.zeros(1), position_ids=places)
    hidden = _hidden(torch.ones(length, length, dtype=torch.bool).tril(), sizes)
    return peer(f"deepseek-v32-{way}", theirs, lambda x: theirs(x, turns, hidden)[0], comparable=False)


def _hidden(seen: Tensor, sizes: Sizes) -> Tensor:
    """What is added to scores: nothing where a key is seen."""
    hidden = torch.zeros(sizes.batch, 1, *seen.shape)
    return hidden.masked_fill(~seen, -math.inf)


def _deepseek_v4(ours: Any, sizes: Sizes, length: int) -> Layer:
    module, size = model("deepseek_v4"), sizes.width // sizes.heads
    name = "compressed_sparse_attention" if ours.indexer is not None else "heavily_compressed_attention"
    rope = {"rope_type": "default", "rope_theta": BASE, "partial_rotary_factor": 0.5}
    config = module.DeepseekV4Config(
        hidden_size=sizes.width, num_attention_heads=sizes.heads, head_dim=size, q_lora_rank=sizes.width // 2,
        num_hidden_layers=1, layer_types=[name], compress_rates={name: ours.core.block}, sliding_window=sizes.window,
        o_groups=1, o_lora_rank=sizes.width, index_n_heads=INDEX_HEADS, index_head_dim=size, index_topk=sizes.keys,
        max_position_embeddings=length, rope_parameters={"main": rope, "compress": rope},
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = module.DeepseekV4Attention(config, 0)
    _same_weights(theirs, ours, size)
    places = torch.arange(length)
    turns = module.DeepseekV4RotaryEmbedding(config)(
        torch.zeros(1), position_ids=places.expand(sizes.batch, -1), layer_type="compress"
    )
    distance = places[:, None] - places
    hidden = _hidden((distance >= 0) & (distance < sizes.window), sizes)
    both = {"main": turns, "compress": turns}
    return peer("deepseek-v4", theirs, lambda x: theirs(x, both, places.expand(len(x), -1), hidden)[0])


def _same_weights(theirs: Any, ours: Any, size: int) -> None:
    """Their output is projected twice: the first time here by nothing."""
    apart = partial(_in_pairs, size=size)
    latent, norm = ours.query_latent
    copy(
        [
            (theirs.q_a_proj.weight, latent.weight),
            (theirs.q_a_norm.weight, norm.weight),
            (theirs.q_b_proj.weight, apart(ours.query.weight, 0)),
            (theirs.kv_proj.weight, apart(ours.key.weight, 0)),
            (theirs.kv_norm.weight, apart(ours.key_norm.weight, 0)),
            (theirs.sinks, ours.core.sinks),
            (theirs.o_a_proj.weight, torch.eye(len(theirs.o_a_proj.weight))),
            (theirs.o_b_proj.weight, apart(ours.output.weight, 1)),
            *_compressor(theirs.compressor, ours.compressor, apart),
        ]
    )
    if ours.indexer is not None:
        indexer = theirs.compressor.indexer
        copy(
            [
                (indexer.q_b_proj.weight, apart(ours.indexer.query.weight, 0)),
                (indexer.scorer.weights_proj.weight, ours.indexer.weight.weight),
                *_compressor(indexer, ours.indexer.compressor, apart),
            ]
        )


def _compressor(theirs: Any, ours: Any, apart: Callable[[Tensor, int], Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [
        (theirs.kv_proj.weight, apart(ours.content.weight, 0)),
        (theirs.gate_proj.weight, apart(ours.gate.weight, 0)),
        (theirs.position_bias, apart(ours.place, 1)),
        (theirs.kv_norm.weight, apart(ours.norm.weight, 0)),
    ]


def _in_pairs(x: Tensor, dim: int, *, size: int) -> Tensor:
    """The rotated second half of each head, which ours has as pairs half of it apart, as pairs of neighbours."""
    half = size // 2
    order = torch.cat([torch.arange(half), half + torch.arange(half).view(2, -1).T.flatten()])
    heads = torch.arange(x.shape[dim]).view(-1, size)[:, order].flatten()
    return x.index_select(dim, heads)
