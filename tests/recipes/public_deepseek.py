"""The recipes of DeepSeek's models and those of `transformers`: their sizes, and weights that are no parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from public_models import GATED, SIZES, WORDS, Public

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
        overrides=("model.d_ff=288",),
    ),
    DeepSeek(
        recipe="deepseek_v3",
        model="DeepseekV3ForCausalLM",
        settings=LATENT | {"num_nextn_predict_layers": 0},
        overrides=NEXT,
    ),
    DeepSeek(
        recipe="deepseek_v32",
        model="DeepseekV32ForCausalLM",
        settings=LATENT | {"index_n_heads": INDEX_HEADS, "index_head_dim": SIZE, "index_topk": 32},
        overrides=(*NEXT, f"attention.layers=[{{mla_dsa:{{q_rank:{RANK},index_heads:{INDEX_HEADS},keys:32}}}}]"),
    ),
    DeepSeek(
        recipe="deepseek_v4",
        model="DeepseekV4ForCausalLM",
        settings=COMMON | COMPRESSED | EXPERTS_OF_V4,
        overrides=(
            *NEXT,
            f"activation.limit={LIMIT}",
            f"attention.layers=[{{csa:{{{OF_V4},index_heads:{INDEX_HEADS},keys:8}}}},{{hca:{{{OF_V4}}}}}]",
        ),
    ),
]
