"""Recipes beside the models of `transformers` that they are in small: the same logits and gradients of all weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from public_models import GATED, HEADS, SIZES, TOLERANCES, WIDTH, Public, Weights, compare, layers
from torch import Tensor

from ablab.config import RunConfig

pytest.importorskip("transformers", reason="the extra `bench` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a package that is not ours


KEY_HEADS = 2  # of the recurrences
EXPERT = 57  # hidden units of a gated expert, one of three that a token meets


def gpt2(theirs: Weights) -> Weights:
    """Their linear layers are transposed, and queries, keys and values are one."""
    ours = {
        "embedding.weight": theirs["transformer.wte.weight"],
        "position.weight": theirs["transformer.wpe.weight"],
        "norm.weight": theirs["transformer.ln_f.weight"],
        "norm.bias": theirs["transformer.ln_f.bias"],
    }
    for layer in range(layers(theirs, "transformer.h.")):
        its, own = f"transformer.h.{layer}", f"blocks.{layer}"
        for kind in ("weight", "bias"):
            parts = turned(theirs[f"{its}.attn.c_attn.{kind}"]).chunk(3)
            ours |= {f"{own}.attention.{n}.{kind}": p for n, p in zip(("query", "key", "value"), parts, strict=True)}
            ours[f"{own}.attention.output.{kind}"] = turned(theirs[f"{its}.attn.c_proj.{kind}"])
            ours[f"{own}.feed_forward.up.{kind}"] = turned(theirs[f"{its}.mlp.c_fc.{kind}"])
            ours[f"{own}.feed_forward.down.{kind}"] = turned(theirs[f"{its}.mlp.c_proj.{kind}"])
            ours[f"{own}.attention_norm.{kind}"] = theirs[f"{its}.ln_1.{kind}"]
            ours[f"{own}.feed_forward_norm.{kind}"] = theirs[f"{its}.ln_2.{kind}"]
    return ours


def turned(weight: Tensor) -> Tensor:
    return weight.mT if weight.ndim > 1 else weight


def around(theirs: Weights) -> Weights:
    """What Llama and its descendants have around their layers."""
    return {
        "embedding.weight": theirs["model.embed_tokens.weight"],
        "norm.weight": theirs["model.norm.weight"],
        "head.weight": theirs["lm_head.weight"],
    }


def norms_and_attention(theirs: Weights, layer: int) -> Weights:
    """Of a layer of Llama and its descendants."""
    its, own = f"model.layers.{layer}", f"blocks.{layer}"
    projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    return {
        f"{own}.attention_norm.weight": theirs[f"{its}.input_layernorm.weight"],
        f"{own}.feed_forward_norm.weight": theirs[f"{its}.post_attention_layernorm.weight"],
        **{
            f"{own}.attention.{name}.{kind}": theirs[f"{its}.self_attn.{public}.{kind}"]
            for name, public in projections.items()
            for kind in ("weight", "bias")
            if f"{its}.self_attn.{public}.{kind}" in theirs
        },
    }


def llama(theirs: Weights) -> Weights:
    ours = around(theirs)
    for layer in range(layers(theirs, "model.layers.")):
        ours |= norms_and_attention(theirs, layer)
        mlp = f"model.layers.{layer}.mlp"
        up = torch.cat([theirs[f"{mlp}.gate_proj.weight"], theirs[f"{mlp}.up_proj.weight"]])
        ours[f"blocks.{layer}.feed_forward.up.weight"] = up
        ours[f"blocks.{layer}.feed_forward.down.weight"] = theirs[f"{mlp}.down_proj.weight"]
    return ours


def gpt_oss(theirs: Weights) -> Weights:
    """Gates and values of their experts alternate."""
    ours = around(theirs)
    for layer in range(layers(theirs, "model.layers.")):
        ours |= norms_and_attention(theirs, layer)
        its, own = f"model.layers.{layer}", f"blocks.{layer}"
        experts = {name: theirs[f"{its}.mlp.experts.{name}"] for name in ("gate_up_proj", "gate_up_proj_bias")}
        up, up_bias = (torch.cat([each[..., ::2], each[..., 1::2]], -1) for each in experts.values())
        ours |= {
            f"{own}.attention.core.sinks": theirs[f"{its}.self_attn.sinks"],
            f"{own}.feed_forward.router.weight": theirs[f"{its}.mlp.router.weight"],
            f"{own}.feed_forward.router.logit_bias": theirs[f"{its}.mlp.router.bias"],
            f"{own}.feed_forward.experts.up": up,
            f"{own}.feed_forward.experts.up_bias": up_bias,
            f"{own}.feed_forward.experts.down": theirs[f"{its}.mlp.experts.down_proj"],
            f"{own}.feed_forward.experts.down_bias": theirs[f"{its}.mlp.experts.down_proj_bias"],
        }
    return ours


def qwen3_next(theirs: Weights) -> Weights:
    """Norms are 1 + theirs; a head's query and its gate lie together, as does all that serves a head of keys."""
    ours = around(theirs)
    for layer in range(layers(theirs, "model.layers.")):
        its, own = f"model.layers.{layer}", f"blocks.{layer}"
        recurrent = f"{its}.linear_attn.A_log" in theirs
        ours |= norms_and_attention(theirs, layer)
        ours |= delta_rule(theirs, layer) if recurrent else gated_attention(theirs, layer)
        mlp, part = f"{its}.mlp", f"{own}.feed_forward"
        shared = [theirs[f"{mlp}.shared_expert.{name}.weight"] for name in ("gate_proj", "up_proj")]
        ours |= {
            f"{part}.router.weight": theirs[f"{mlp}.gate.weight"],
            f"{part}.experts.up": theirs[f"{mlp}.experts.gate_up_proj"].mT,
            f"{part}.experts.down": theirs[f"{mlp}.experts.down_proj"].mT,
            f"{part}.shared.up.weight": torch.cat(shared),
            f"{part}.shared.down.weight": theirs[f"{mlp}.shared_expert.down_proj.weight"],
            f"{part}.shared_gate.weight": theirs[f"{mlp}.shared_expert_gate.weight"],
        }
    zero_centred = {
        name for name in ours if name.endswith("norm.weight") and not name.endswith("attention.norm.weight")
    }
    return {name: 1 + weight if name in zero_centred else weight for name, weight in ours.items()}


def gated_attention(theirs: Weights, layer: int) -> Weights:
    its, own = f"model.layers.{layer}.self_attn", f"blocks.{layer}.attention"
    query, gate = theirs[f"{its}.q_proj.weight"].unflatten(0, (HEADS, 2, -1)).unbind(1)
    return {
        f"{own}.query.weight": query.flatten(0, 1),
        f"{own}.output_gate.weight": gate.flatten(0, 1),
        f"{own}.query_norm.weight": theirs[f"{its}.q_norm.weight"],
        f"{own}.key_norm.weight": theirs[f"{its}.k_norm.weight"],
    }


def delta_rule(theirs: Weights, layer: int) -> Weights:
    its, own, size = f"model.layers.{layer}.linear_attn", f"blocks.{layer}.attention", WIDTH // HEADS
    served = HEADS // KEY_HEADS
    of_keys = theirs[f"{its}.in_proj_qkvz.weight"].unflatten(0, (KEY_HEADS, -1))
    q, k, v, z = (each.flatten(0, 1) for each in of_keys.split([size, size, served * size, served * size], 1))
    both = theirs[f"{its}.in_proj_ba.weight"].unflatten(0, (KEY_HEADS, 2, served))
    write, decay = (each.flatten(0, 1) for each in both.unbind(1))
    return {
        f"{own}.query.weight": q,
        f"{own}.key.weight": k,
        f"{own}.value.weight": v,
        f"{own}.gate.weight": z,
        f"{own}.write.weight": write,
        f"{own}.decay.project.weight": decay,
        f"{own}.decay.bias": theirs[f"{its}.dt_bias"],
        f"{own}.decay.log_rate": theirs[f"{its}.A_log"],
        f"{own}.convolution.weight": theirs[f"{its}.conv1d.weight"].squeeze(1),
        f"{own}.norm.weight": theirs[f"{its}.norm.weight"],
        f"{own}.output.weight": theirs[f"{its}.out_proj.weight"],
    }


MODELS = [
    Public(
        recipe="gpt2",
        model="GPT2LMHeadModel",
        settings=SIZES | {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
        weights=gpt2,
    ),
    Public(
        recipe="llama",
        model="LlamaForCausalLM",
        settings=SIZES | {"num_key_value_heads": 2, "intermediate_size": GATED, "tie_word_embeddings": False},
        weights=llama,
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
        weights=gpt_oss,
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
        weights=qwen3_next,
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
