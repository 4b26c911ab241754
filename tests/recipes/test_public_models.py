"""Recipes beside the models of `transformers` that they are in small: the same logits and gradients of all weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from public_models import GATED, HEADS, SIZES, TOLERANCES, Public, compare

from ablab.config import RunConfig

pytest.importorskip("transformers", reason="the extra `bench` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a package that is not ours


KEY_HEADS = 2  # of the recurrences
EXPERT = 57  # hidden units of a gated expert, one of three that a token meets


MODELS = [
    Public(
        recipe="gpt2",
        model="GPT2LMHeadModel",
        settings=SIZES | {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    ),
    Public(
        recipe="llama",
        model="LlamaForCausalLM",
        settings=SIZES | {"num_key_value_heads": 2, "intermediate_size": GATED, "tie_word_embeddings": False},
    ),
    Public(
        recipe="gpt_oss",
        model="GptOssForCausalLM",
        settings=SIZES
        | {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 85,  # one of two that a token meets
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "sliding_window": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "rms_norm_eps": 1e-6,
            "swiglu_limit": 1.0,  # which these weights reach
        },
        overrides=["activation.limit=1.0"],
    ),
    Public(
        recipe="qwen3_next",
        model="Qwen3NextForCausalLM",
        settings=SIZES
        | {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": EXPERT,
            "shared_expert_intermediate_size": EXPERT,
            "linear_num_value_heads": HEADS,
            "linear_num_key_heads": KEY_HEADS,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        },
        scale=0.05,
    ),
]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("public", MODELS, ids=lambda public: public.recipe)
def test_a_recipe_is_the_public_model(
    public: Public, dtype: torch.dtype, tiny_config: Callable[..., RunConfig]
) -> None:
    config = tiny_config("model=tiny", f"recipe={public.recipe}", *public.overrides)
    compare(public, config, dtype).check(TOLERANCES[dtype])


WRONG = {
    "gpt2": "activation=gelu",
    "llama": "position.base=10010",
    "gpt_oss": "attention.layers=[{windowed:{window:31,sinks:true}},{full:{sinks:true}}]",
    "qwen3_next": "position.share=0.5",
}


@pytest.mark.parametrize("public", MODELS, ids=lambda public: public.recipe)
def test_a_small_mistake_is_seen(public: Public, tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config("model=tiny", f"recipe={public.recipe}", *public.overrides, WRONG[public.recipe])
    found = compare(public, config, torch.float64, lengths=[33])
    assert found.logits > 1e-5
    assert max(found.gradients.values()) > 1e-6
