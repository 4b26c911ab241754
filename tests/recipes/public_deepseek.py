"""The recipes of DeepSeek's models and those of `transformers`: sizes, and our weights of theirs.

Theirs rotate pairs of neighbours where ours rotate coordinates half apart (but for the indexer of V3.2, which is as
ours), so that what is rotated comes in another order. Modules that predict further tokens are not part of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from public_models import GATED, SIZES, WORDS, Public, Weights, layers
from torch import Tensor

from ablab.model.feed_forward.routing import hashed_experts

HEADS, SIZE, ROPE, RANK = 4, 16, 8, 32  # of heads, of their rotated coordinates, and of latents
V4_ROPE = 4
EXPERTS, CHOSEN = 16, 4
# Of an indexer. Of few heads none may have anything for a key: of such keys, all of score 0, theirs takes any.
INDEX_HEADS = 32
LIMIT = 0.5  # of gates and values in V4, low enough to bind


@dataclass(frozen=True, kw_only=True)
class DeepSeek(Public):
    """Biases for the choice are drawn as well, and hashed experts are those of the recipe at seed 0."""

    def theirs(self) -> Any:
        model = super().theirs()
        generator = torch.Generator().manual_seed(1)
        for name, value in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) / 3)
            if name.endswith("tid2eid"):
                layer = int(name.split(".")[2])
                value.copy_(hashed_experts(torch.arange(WORDS), EXPERTS, CHOSEN, layer))
        return model


def ordered(x: Tensor, dim: int, size: int, rope: int, *, first: bool = False) -> Tensor:
    """Heads of `size` along `dim`, whose trailing or first coordinates go from pairs of neighbours to halves."""
    start = 0 if first else size - rope
    order = torch.arange(size)
    order[start : start + rope] = start + torch.cat([torch.arange(0, rope, 2), torch.arange(1, rope, 2)])
    return x.index_select(dim, torch.arange(x.shape[dim]).view(-1, size)[:, order].flatten())


def around(theirs: Weights) -> Weights:
    return {
        "embedding.weight": theirs["model.embed_tokens.weight"],
        "norm.weight": theirs["model.norm.weight"],
        "head.weight": theirs["lm_head.weight"],
    }


def gated(theirs: Weights, its: str, own: str) -> Weights:
    up = torch.cat([theirs[f"{its}.gate_proj.weight"], theirs[f"{its}.up_proj.weight"]])
    return {f"{own}.up.weight": up, f"{own}.down.weight": theirs[f"{its}.down_proj.weight"]}


def feed_forward(theirs: Weights, layer: int) -> Weights:
    its, own = f"model.layers.{layer}.mlp", f"blocks.{layer}.feed_forward"
    if f"{its}.experts.gate_up_proj" not in theirs:
        return gated(theirs, its, own)
    bias = {f"{own}.router.bias": theirs[name] for name in [f"{its}.gate.e_score_correction_bias"] if name in theirs}
    return bias | {
        f"{own}.router.weight": theirs[f"{its}.gate.weight"],
        f"{own}.experts.up": theirs[f"{its}.experts.gate_up_proj"].mT,
        f"{own}.experts.down": theirs[f"{its}.experts.down_proj"].mT,
        **gated(theirs, f"{its}.shared_experts", f"{own}.shared"),
    }


def latent_attention(theirs: Weights, layer: int) -> Weights:
    its, own = f"model.layers.{layer}.self_attn", f"blocks.{layer}.attention"
    joined = theirs[f"{its}.kv_a_proj_with_mqa.weight"]
    keys, values = theirs[f"{its}.kv_b_proj.weight"].unflatten(0, (HEADS, 2, SIZE)).unbind(1)
    return {
        f"{own}.query_latent.0.weight": theirs[f"{its}.q_a_proj.weight"],
        f"{own}.query_latent.1.weight": theirs[f"{its}.q_a_layernorm.weight"],
        f"{own}.query.weight": ordered(theirs[f"{its}.q_b_proj.weight"], 0, SIZE + ROPE, ROPE),
        f"{own}.latent.0.weight": joined[:RANK],
        f"{own}.latent.1.weight": theirs[f"{its}.kv_a_layernorm.weight"],
        f"{own}.rotated_key.weight": ordered(joined[RANK:], 0, ROPE, ROPE),
        f"{own}.key.weight": keys.flatten(0, 1),
        f"{own}.value.weight": values.flatten(0, 1),
        f"{own}.output.weight": theirs[f"{its}.o_proj.weight"],
    }


def indexer(theirs: Weights, layer: int) -> Weights:
    its, own = f"model.layers.{layer}.self_attn.indexer", f"blocks.{layer}.attention.indexer"
    names = {"query": "wq_b", "key": "wk", "key_norm": "k_norm", "weight": "weights_proj"}
    found = {f"{own}.{name}.weight": theirs[f"{its}.{public}.weight"] for name, public in names.items()}
    return found | {f"{own}.key_norm.bias": theirs[f"{its}.k_norm.bias"]}


def norms(theirs: Weights, layer: int) -> Weights:
    its, own = f"model.layers.{layer}", f"blocks.{layer}"
    return {
        f"{own}.attention_norm.weight": theirs[f"{its}.input_layernorm.weight"],
        f"{own}.feed_forward_norm.weight": theirs[f"{its}.post_attention_layernorm.weight"],
    }


def deepseek(*parts: Callable[[Weights, int], Weights]) -> Callable[[Weights], Weights]:
    """Our weights, layer by layer."""

    def weights(theirs: Weights) -> Weights:
        ours = around(theirs)
        for layer in range(layers(theirs, "model.layers.")):
            for part in (norms, feed_forward, *parts):
                ours |= part(theirs, layer)
        return ours

    return weights


def compressor(theirs: Weights, its: str, own: str) -> Weights:
    return {
        f"{own}.content.weight": ordered(theirs[f"{its}.kv_proj.weight"], 0, SIZE, V4_ROPE),
        f"{own}.gate.weight": ordered(theirs[f"{its}.gate_proj.weight"], 0, SIZE, V4_ROPE),
        f"{own}.place": ordered(theirs[f"{its}.position_bias"], 1, SIZE, V4_ROPE),
        f"{own}.norm.weight": ordered(theirs[f"{its}.kv_norm.weight"], 0, SIZE, V4_ROPE),
    }


def compressed_attention(theirs: Weights, layer: int) -> Weights:
    its, own = f"model.layers.{layer}.self_attn", f"blocks.{layer}.attention"
    by_groups = theirs[f"{its}.o_a_proj.weight"].unflatten(0, (2, -1))  # (groups, outputs, inputs)
    ours = {
        f"{own}.query_latent.0.weight": theirs[f"{its}.q_a_proj.weight"],
        f"{own}.query_latent.1.weight": theirs[f"{its}.q_a_norm.weight"],
        f"{own}.query.weight": ordered(theirs[f"{its}.q_b_proj.weight"], 0, SIZE, V4_ROPE),
        f"{own}.key.weight": ordered(theirs[f"{its}.kv_proj.weight"], 0, SIZE, V4_ROPE),
        f"{own}.key_norm.weight": ordered(theirs[f"{its}.kv_norm.weight"], 0, SIZE, V4_ROPE),
        f"{own}.core.sinks": theirs[f"{its}.sinks"],
        f"{own}.output.0.weight": ordered(by_groups.mT, 1, SIZE, V4_ROPE),
        f"{own}.output.1.weight": theirs[f"{its}.o_b_proj.weight"],
        **compressor(theirs, f"{its}.compressor", f"{own}.compressor"),
    }
    if f"{its}.compressor.indexer.q_b_proj.weight" not in theirs:
        return ours
    its, own = f"{its}.compressor.indexer", f"{own}.indexer"
    return ours | {
        f"{own}.query.weight": ordered(theirs[f"{its}.q_b_proj.weight"], 0, SIZE, V4_ROPE),
        f"{own}.weight.weight": theirs[f"{its}.scorer.weights_proj.weight"],
        **compressor(theirs, its, f"{own}.compressor"),
    }


def streams(theirs: Weights, layer: int) -> Weights:
    """Those of a layer, and with the last one's the model's end."""
    names = {"weight": "fn", "bias": "base", "gates": "scale"}
    ours = {f"ends.{name}": theirs[f"model.hc_head.hc_{public}"] for name, public in names.items()}
    for part, public in (("attention", "attn_hc"), ("feed_forward", "ffn_hc")):
        its = f"model.layers.{layer}.{public}"
        ours |= {f"blocks.{layer}.{part}_residual.{name}": theirs[f"{its}.{each}"] for name, each in names.items()}
    return ours


ROTATION: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
COMMON: dict[str, Any] = SIZES | {
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": CHOSEN,
    "n_shared_experts": 1,
    "q_lora_rank": RANK,
    "rope_parameters": ROTATION,
    "tie_word_embeddings": False,
}
LATENT: dict[str, Any] = COMMON | {
    "num_key_value_heads": HEADS,
    "kv_lora_rank": RANK,
    "qk_nope_head_dim": SIZE,
    "v_head_dim": SIZE,
    "qk_rope_head_dim": ROPE,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1,
    "intermediate_size": GATED,
    "moe_intermediate_size": 34,
}
WIDE = {"intermediate_size": 192, "moe_intermediate_size": 32}  # with model.d_ff=288 two shared experts are even ones
KINDS = {"hca": "heavily_compressed_attention", "csa": "compressed_sparse_attention"}
COMPRESSED: dict[str, Any] = {
    "head_dim": SIZE,
    "layer_types": [KINDS[name] for name in ("hca", "hca", "csa", "hca")],
    "compress_rates": {KINDS["csa"]: 4, KINDS["hca"]: 16},
    "sliding_window": 32,
    "o_groups": 2,
    "o_lora_rank": 16,
    "index_n_heads": INDEX_HEADS,
    "index_head_dim": SIZE,
    "index_topk": 8,
    "partial_rotary_factor": V4_ROPE / SIZE,
    "rope_parameters": {
        name: ROTATION | {"rope_theta": base, "partial_rotary_factor": V4_ROPE / SIZE}
        for name, base in (("main", 10000.0), ("compress", 160000.0))
    },
}
EXPERTS_OF_V4 = {
    "moe_intermediate_size": 34,
    "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
    "routed_scaling_factor": 1.5,
    "swiglu_limit": LIMIT,
}
OF_V4 = f"q_rank:{RANK},rope_size:{V4_ROPE},rope_base:160000.0,output_groups:2,output_rank:16"
NEXT = ("seed=0", "objective=next_token")
MODELS = [
    DeepSeek(
        recipe="deepseek_v2",
        model="DeepseekV2ForCausalLM",
        settings=LATENT | WIDE | {"n_shared_experts": 2, "topk_method": "group_limited_greedy"},
        weights=deepseek(latent_attention),
        overrides=("model.d_ff=288",),
    ),
    DeepSeek(
        recipe="deepseek_v3",
        model="DeepseekV3ForCausalLM",
        settings=LATENT | {"num_nextn_predict_layers": 0},
        weights=deepseek(latent_attention),
        overrides=NEXT,
    ),
    DeepSeek(
        recipe="deepseek_v32",
        model="DeepseekV32ForCausalLM",
        settings=LATENT | {"index_n_heads": INDEX_HEADS, "index_head_dim": SIZE, "index_topk": 32},
        weights=deepseek(latent_attention, indexer),
        overrides=(*NEXT, f"attention.layers=[{{mla_dsa:{{q_rank:{RANK},index_heads:{INDEX_HEADS},keys:32}}}}]"),
    ),
    DeepSeek(
        recipe="deepseek_v4",
        model="DeepseekV4ForCausalLM",
        settings=COMMON | COMPRESSED | EXPERTS_OF_V4,
        weights=deepseek(compressed_attention, streams),
        overrides=(
            *NEXT,
            f"activation.limit={LIMIT}",
            f"attention.layers=[{{csa:{{{OF_V4},index_heads:{INDEX_HEADS},keys:8}}}},{{hca:{{{OF_V4}}}}}]",
        ),
    ),
]
