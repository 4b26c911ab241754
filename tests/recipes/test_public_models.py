"""Recipes beside the models of `transformers` that they are in small: the same logits and gradients of all weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from public_models import GATED, SIZES, TOLERANCES, Public, Weights, compare, layers
from torch import Tensor

from ablab.config import RunConfig

pytest.importorskip("transformers", reason="the extra `bench` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a package that is not ours


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
]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("public", MODELS, ids=lambda public: public.recipe)
def test_a_recipe_is_the_public_model(
    public: Public, dtype: torch.dtype, tiny_config: Callable[..., RunConfig]
) -> None:
    config = tiny_config("model=tiny", f"recipe={public.recipe}", *public.overrides)
    compare(public, config, dtype).check(TOLERANCES[dtype])
