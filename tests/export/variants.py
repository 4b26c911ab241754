"""Models at the sizes of model=tiny that each counterpart must be able to say: its recipe, and others.

Of each counterpart the variants together differ from the recipe in every key that may.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ablab.config import RunConfig
from ablab.export.counterparts import COUNTERPARTS
from ablab.model.feed_forward.routing import Router
from ablab.tasks.base import Task
from ablab.training.build_model import build_model
from ablab.training.build_option import build_option
from ablab.training.restore import Trained

TinyConfig = Callable[..., RunConfig]

BYTES = {"tokenizer": "bytes"}
LENGTH = 96  # longer than windows, blocks and chosen keys
INDEX = "index_heads:32"  # of few heads none may have anything for a key, and of such keys theirs takes any
_SIZES = ("model.d_model=48", "model.n_heads=6", "model.d_ff=100", "model.tie_embeddings=true", "norm.eps=0.001")
_OF_V4 = "q_rank:24,rope_size:6,rope_base:500.0,output_groups:3,output_rank:10,window:7"
_SIX = ("model.d_model=48", "model.n_heads=6", "model.d_ff=100")

VARIANTS: dict[str, list[tuple[str, ...]]] = {
    "gpt2": [
        (),
        ("model.d_model=48", "model.n_heads=6", "model.d_ff=100", "model.tie_embeddings=false", "norm.eps=0.001"),
        ("model.n_layers=1", "model.dropout=0.3", "attention.dropout=0.2"),
    ],
    "llama": [(), (*_SIZES, "model.bias=true", "position.base=500.0", "model.n_kv_heads=3"), ("model.n_kv_heads=4",)],
    "gpt_oss": [
        (),
        (
            *_SIZES,
            "model.n_kv_heads=3",
            "position.base=500.0",
            "activation.limit=0.4",
            "feed_forward.n_experts=5",
            "feed_forward.top_k=3",
            "feed_forward.d_expert=50",
            "attention.layers=[{full:{sinks:true}},{windowed:{window:7,sinks:true}}]",
        ),
        ("attention.layers=[{full:{sinks:true}}]",),
    ],
    "qwen3_next": [
        (),
        (
            *_SIX,
            "model.n_kv_heads=3",
            "model.tie_embeddings=true",
            "position.base=500.0",
            "position.share=0.5",
            "feed_forward.n_experts=5",
            "feed_forward.top_k=3",
            "feed_forward.d_expert=50",
            "feed_forward.n_shared=3",
            "attention.layers=[{full:{qk_norm:true,output_gate:feature}},"
            "{gated_delta:{key_heads:3,key_size:12,value_size:20,conv_size:3}}]",
        ),
    ],
    "deepseek_v2": [
        (),
        (
            *_SIZES,
            "attention.layers=[{mla:{kv_rank:20,rope_size:6,rope_base:500.0}}]",
            "feed_forward.first=[2*dense]",
            "feed_forward.layers=[{moe:{n_experts:12,top_k:3,n_shared:3,d_expert:50,score:softmax,renormalise:false,"
            "scale:1.3,n_groups:3,top_groups:1,group_best:1,bias_speed:0.0}}]",
        ),
        ("feed_forward.first=[]", "model.n_layers=2"),
    ],
    "deepseek_v3": [
        (),
        (
            *_SIZES,
            "objective=next_token",
            "attention=mla",
            "attention.kv_rank=20",
            "attention.q_rank=24",
            "attention.rope_size=6",
            "attention.rope_base=500.0",
            "feed_forward.layers=[{moe:{n_experts:12,top_k:3,n_shared:3,d_expert:50,score:sigmoid,renormalise:true,"
            "scale:1.3,n_groups:3,top_groups:1,group_best:2,bias_speed:0.0}}]",
        ),
    ],
    "deepseek_v32": [
        (f"attention.layers=[{{mla_dsa:{{q_rank:32,{INDEX},keys:32}}}}]",),
        (
            *_SIX,
            "model.tie_embeddings=true",
            f"attention.layers=[{{mla_dsa:{{kv_rank:20,q_rank:24,rope_size:6,rope_base:500.0,{INDEX},index_size:10,"
            "keys:5}}]",
            "feed_forward.layers=[{moe:{n_experts:12,top_k:3,n_shared:3,d_expert:50,score:sigmoid,renormalise:true,"
            "scale:1.3,n_groups:3,top_groups:1,group_best:2,bias_speed:0.0}}]",
        ),
    ],
    "deepseek_v4": [
        (
            f"attention.layers=[{{csa:{{q_rank:32,rope_size:4,rope_base:160000.0,output_groups:2,output_rank:16,{INDEX},"
            "keys:8}},{hca:{q_rank:32,rope_size:4,rope_base:160000.0,output_groups:2,output_rank:16}}]",
        ),
        (
            *_SIX,
            "seed=3",
            "model.tie_embeddings=true",
            "activation.limit=0.4",
            "residual.streams=3",
            "residual.rounds=5",
            "attention.first=[]",
            f"attention.layers=[{{csa:{{{_OF_V4},block:3,{INDEX},index_size:10,keys:3}}}},{{hca:{{{_OF_V4},block:9}}}}]",
            "feed_forward.first=[{hash_moe:{n_experts:12,top_k:3,d_expert:50,scale:1.3}}]",
            "feed_forward.layers=[{moe:{n_experts:12,top_k:3,d_expert:50,score:sqrtsoftplus,renormalise:true,"
            "scale:1.3,bias_speed:0.0}}]",
        ),
    ],
}
CASES = [(recipe, number) for recipe in COUNTERPARTS for number in range(len(VARIANTS[recipe]))]


def config_of(recipe: str, number: int, tiny_config: TinyConfig) -> RunConfig:
    chosen = VARIANTS[recipe][number]
    return tiny_config("model=tiny", f"recipe={recipe}", f"task.seq_len={LENGTH}", *chosen)


def as_trained(config: RunConfig, scale: float = 0.1) -> Trained:
    """A model that could have been trained: every matrix random, and every vector about the value it begins with.

    Args:
        scale: of the matrices. What is larger has larger rounding errors, of theirs as of ours.
    """
    task: Task = build_option(config, "task", seed=config.seed)
    task.load_state_dict(BYTES)
    model = build_model(config, task).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * scale if parameter.ndim > 1 else parameter + 0.2 * drawn)
        for router in (module for module in model.modules() if isinstance(module, Router) and module.bias_speed):
            router.bias.copy_(torch.randn(router.bias.shape, generator=generator) / 3)
    return Trained(
        folder=Path("run"), checkpoint="best", config=config, model=model, task=task, remembered=BYTES, step=7
    )
