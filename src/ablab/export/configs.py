"""What `config.json` of a model of `transformers` says, for each model that a recipe is in small.

Sizes are read off the model, the rest off its settings. No token is a special one here but that of padding.
"""

from __future__ import annotations

from typing import Any

from ablab.config import Node
from ablab.export.deepseek import mixtures, routed_units
from ablab.export.settings import Inexpressible, ModelSettings
from ablab.model.attention.compressed import CompressedSparseAttention
from ablab.model.attention.gated_delta import GatedDeltaNet
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.feed_forward.base import Dense
from ablab.model.feed_forward.experts import HashedExperts, MixtureOfExperts
from ablab.model.transformer import Transformer

_COMPRESSED = {"sparse": "compressed_sparse_attention", "heavy": "heavily_compressed_attention"}


def gpt2(model: Transformer, settings: ModelSettings) -> Node:
    return {
        "model_type": "gpt2",
        "n_embd": _width(model),
        "n_head": model.n_heads,
        "n_layer": len(model.blocks),
        "n_positions": model.max_length,
        "n_inner": _dense_units(model),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": settings.one("norm.eps"),
        "embd_pdrop": settings.one("model.dropout"),
        "resid_pdrop": settings.one("model.dropout"),
        "attn_pdrop": 0.0,
        **_tokens(model),
    }


def llama(model: Transformer, settings: ModelSettings) -> Node:
    bias = settings.one("model.bias")
    return {
        "model_type": "llama",
        **_common(model, settings),
        **_heads(model, settings),
        "rope_theta": settings.one("position.base"),  # once more, where versions 4 look for it
        "intermediate_size": _dense_units(model),
        "attention_bias": bias,
        "mlp_bias": bias,
    }


def gpt_oss(model: Transformer, settings: ModelSettings) -> Node:
    _one_size(settings, "feed_forward.d_expert")
    windowed = [isinstance(block.attention.core, WindowedAttention) for _, block in model.layers()]
    return {
        "model_type": "gpt_oss",
        **_common(model, settings),
        **_heads(model, settings),
        "intermediate_size": _expert_units(model),
        "num_local_experts": settings.one("feed_forward.n_experts"),
        "num_experts_per_tok": settings.one("feed_forward.top_k"),
        "layer_types": ["sliding_attention" if each else "full_attention" for each in windowed],
        "sliding_window": _window(settings) or model.max_length,
        "swiglu_limit": settings.one("activation.limit"),
    }


def qwen3_next(model: Transformer, settings: ModelSettings) -> Node:
    _one_size(settings, "attention.key_size", "attention.value_size", "feed_forward.d_expert")
    layers = [block.attention for _, block in model.layers()]
    recurrent = next((each for each in layers if isinstance(each, GatedDeltaNet)), None)
    if recurrent is None:
        raise Inexpressible("attention", settings.layers["attention"][0][0], "gated_delta in some layers")
    shared = mixtures(model)[0].shared
    if shared is None:
        raise Inexpressible("feed_forward.n_shared", 0, "at least 1")
    return {
        "model_type": "qwen3_next",
        **_common(model, settings),
        **_heads(model, settings),
        "rope_parameters": _rotation(settings.one("position.base"), settings.one("position.share")),
        "num_experts": settings.one("feed_forward.n_experts"),
        "num_experts_per_tok": settings.one("feed_forward.top_k"),
        "moe_intermediate_size": _expert_units(model),
        "shared_expert_intermediate_size": shared.down.in_features,
        "layer_types": ["linear_attention" if isinstance(each, GatedDeltaNet) else "full_attention" for each in layers],
        "linear_num_value_heads": model.n_heads,
        "linear_num_key_heads": settings.one("attention.key_heads") or model.n_heads,
        "linear_key_head_dim": recurrent.key_size,
        "linear_value_head_dim": recurrent.value_size,
        "linear_conv_kernel_dim": settings.one("attention.conv_size"),
    }


def deepseek_v2(model: Transformer, settings: ModelSettings) -> Node:
    return {"model_type": "deepseek_v2", **_latent(model, settings), "topk_method": "group_limited_greedy"}


def deepseek_v3(model: Transformer, settings: ModelSettings) -> Node:
    return {"model_type": "deepseek_v3", **_latent(model, settings), "num_nextn_predict_layers": 0}


def deepseek_v32(model: Transformer, settings: ModelSettings) -> Node:
    _require(settings, "attention.q_rank")
    return {"model_type": "deepseek_v32", **_latent(model, settings), **_index(model, settings)}


def deepseek_v4(model: Transformer, settings: ModelSettings) -> Node:
    _require(settings, "attention.q_rank", "attention.output_rank")
    _one_size(settings, "attention.rope_size", "feed_forward.d_expert")
    layers = ["sparse" if isinstance(b.attention, CompressedSparseAttention) else "heavy" for _, b in model.layers()]
    head, rotated = _width(model) // model.n_heads, _rotated(model)
    rotations = {"main": 10000.0, "compress": settings.one("attention.rope_base")}
    return {
        "model_type": "deepseek_v4",
        **_common(model, settings),
        "head_dim": head,
        "q_lora_rank": settings.one("attention.q_rank"),
        "layer_types": [_COMPRESSED[each] for each in layers],
        "compress_rates": {_COMPRESSED[kind]: rate for kind, rate in _rates(settings, layers).items()},
        "sliding_window": _window(settings),
        "o_groups": settings.one("attention.output_groups"),
        "o_lora_rank": settings.one("attention.output_rank"),
        **_index(model, settings),
        "partial_rotary_factor": rotated / head,
        "rope_parameters": {name: _rotation(base, rotated / head) for name, base in rotations.items()},
        "hc_mult": settings.one("residual.streams"),
        "hc_sinkhorn_iters": settings.one("residual.rounds"),
        "n_routed_experts": settings.one("feed_forward.n_experts"),
        "num_experts_per_tok": settings.one("feed_forward.top_k"),
        "n_shared_experts": 1,
        "moe_intermediate_size": _expert_units(model),
        "mlp_layer_types": ["hash_moe" if isinstance(each, HashedExperts) else "moe" for each in mixtures(model)],
        "routed_scaling_factor": settings.one("feed_forward.scale"),
        "scoring_func": "sqrtsoftplus",
        "swiglu_limit": settings.one("activation.limit"),
    }


def experts_implementation(model: Transformer, config: Node) -> Node:
    """That experts are computed one by one, where transformers could not by itself; nothing for other models.

    Products of groups, which it takes, ask that rows be a multiple of 16 bytes long, 8 numbers in half precision.
    """
    if not mixtures(model):
        return {}
    units = int(config["moe_intermediate_size"] if "moe_intermediate_size" in config else config["intermediate_size"])
    return {"experts_implementation": "eager"} if units % 8 or _width(model) % 8 else {}


def _tokens(model: Transformer) -> Node:
    return {
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.head.weight is model.get_parameter("embedding.weight"),
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": model.padding,
    }


def _common(model: Transformer, settings: ModelSettings) -> Node:
    """What Llama and all that grew out of it have."""
    return {
        "hidden_size": _width(model),
        "num_attention_heads": model.n_heads,
        "num_hidden_layers": len(model.blocks),
        "max_position_embeddings": model.max_length,
        "rms_norm_eps": settings.one("norm.eps"),
        **_tokens(model),
    }


def _heads(model: Transformer, settings: ModelSettings) -> Node:
    return {
        "num_key_value_heads": settings.one("model.n_kv_heads") or model.n_heads,
        "head_dim": _width(model) // model.n_heads,
        "rope_parameters": _rotation(settings.one("position.base")),
    }


def _rotation(base: float, share: float | None = None) -> Node:
    part = {} if share is None else {"partial_rotary_factor": share}
    return {"rope_type": "default", "rope_theta": base, **part}


def _latent(model: Transformer, settings: ModelSettings) -> Node:
    """Latent attention, and experts behind layers without."""
    head, attention = _width(model) // model.n_heads, next(model.layers())[1].attention
    if not settings.one("feed_forward.n_shared"):
        raise Inexpressible("feed_forward.n_shared", settings.one("feed_forward.n_shared"), "at least 1")
    dense = [not isinstance(block.feed_forward, MixtureOfExperts) for _, block in model.layers()]
    if dense != sorted(dense, reverse=True):
        raise Inexpressible("feed_forward", "dense behind experts", "dense layers in front of all others")
    _one_size(settings, "attention.kv_rank", "attention.rope_size", "feed_forward.d_expert")
    rank = attention.get_submodule("latent.0").get_parameter("weight").shape[0]
    units = routed_units(model)
    return {
        **_common(model, settings),
        "num_key_value_heads": model.n_heads,
        "q_lora_rank": settings.one("attention.q_rank"),
        "kv_lora_rank": rank,
        "qk_nope_head_dim": head,
        "v_head_dim": head,
        "qk_rope_head_dim": _rotated(model),
        "rope_parameters": _rotation(settings.one("attention.rope_base")),
        "n_routed_experts": settings.one("feed_forward.n_experts"),
        "num_experts_per_tok": settings.one("feed_forward.top_k"),
        "n_shared_experts": settings.one("feed_forward.n_shared"),
        "n_group": settings.one("feed_forward.n_groups"),
        "topk_group": settings.one("feed_forward.top_groups"),
        "routed_scaling_factor": settings.one("feed_forward.scale"),
        "first_k_dense_replace": sum(dense),
        "intermediate_size": _dense_units(model) or units,
        "moe_intermediate_size": units,
    }


def _index(model: Transformer, settings: ModelSettings) -> Node:
    """The indexer's; nothing where no layer has one."""
    if settings.one("attention.keys") is None:
        return {}
    return {
        "index_topk": settings.one("attention.keys"),
        "index_n_heads": settings.one("attention.index_heads"),
        "index_head_dim": settings.one("attention.index_size") or _width(model) // model.n_heads,
    }


def _rates(settings: ModelSettings, layers: list[str]) -> dict[str, int]:
    """Tokens to an entry, of each kind of compressed attention."""
    rates: dict[str, int] = {}
    for kind, (_, node) in zip(layers, settings.layers["attention"], strict=True):
        if rates.setdefault(kind, node["block"]) != node["block"]:
            raise Inexpressible("attention.block", node["block"], f"the {rates[kind]} of other layers in all of a kind")
    return {"sparse": 4, "heavy": 16, **rates}


def _rotated(model: Transformer) -> int:
    """Coordinates of a head that the attention's own rotation turns."""
    rope = next(model.layers())[1].attention.get_submodule("rope")
    return int(rope.get_buffer("cos").shape[1])


def _window(settings: ModelSettings) -> Any:
    window = settings.one("attention.window")
    if isinstance(window, list):
        raise Inexpressible("attention.window", window, "one for all layers")
    return window


def _require(settings: ModelSettings, *keys: str) -> None:
    for key in keys:
        if settings.one(key) is None:
            raise Inexpressible(key, None, "a number")


def _one_size(settings: ModelSettings, *keys: str) -> None:
    """Raises Inexpressible where layers differ in a size that is read off one of them."""
    for key in keys:
        settings.one(key)


def _width(model: Transformer) -> int:
    return model.head.in_features


def _dense_units(model: Transformer) -> int:
    """Hidden units of a part without experts; 0 where there is none."""
    parts = (block.feed_forward for _, block in model.layers())
    return next((int(part.down.in_features) for part in parts if isinstance(part, Dense)), 0)


def _expert_units(model: Transformer) -> int:
    return int(mixtures(model)[0].experts.down.shape[1])
