"""Feed-forward parts: the dense one, and experts beside the blocks of published models in two of their ways.

`eager` goes from expert to expert; `grouped` has one product for all of them. Both are `transformers`' own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ablab.bench.layers.pair import Kind, Layer, Sizes, copy, model, option, peer

WAYS = {"eager": "eager", "grouped": "grouped_mm"}  # in which they compute experts
SCALE = 2.5  # of DeepSeek-V3's gates
WORDS = 1024  # that token numbers come from


def kinds() -> list[Kind]:
    """All."""
    score: dict[str, dict[str, Any]] = {
        "softmax": {"score": "softmax", "n_shared": 0},
        "sigmoid": {"score": "sigmoid", "scale": SCALE},
    }
    alike = {f"deepseek-v3-{way}": partial(_deepseek, way) for way in WAYS}
    return [
        Kind(name="dense", ours=_dense, call=_plainly, peers={"deepseek-v3-mlp": _mlp}),
        Kind(name="moe", ours=partial(_moe, **score["sigmoid"]), call=_plainly, peers=alike),
        Kind(name="moe-to-one", ours=partial(_all_to_one, **score["sigmoid"]), call=_plainly, peers=alike),
        Kind(
            name="moe-softmax",
            ours=partial(_moe, **score["softmax"]),
            call=_plainly,
            peers={f"{name}-{way}": partial(made, way) for name, made in _SOFTMAX.items() for way in WAYS},
        ),
        Kind(
            name="hash_moe",
            ours=_hashed,
            call=_by_token,
            peers={f"deepseek-v4-{way}": partial(_deepseek_v4, way) for way in WAYS},
        ),
    ]


def _plainly(ours: Any, sizes: Sizes, length: int) -> Callable[[Tensor], Tensor]:
    return lambda x: ours(x)


def _by_token(ours: Any, sizes: Sizes, length: int) -> Callable[[Tensor], Tensor]:
    ids = _ids(sizes, length)
    return lambda x: ours(x, None, ids)


def _ids(sizes: Sizes, length: int) -> Tensor:
    return torch.randint(WORDS, (sizes.batch, length), generator=torch.Generator().manual_seed(length))


def _dense(sizes: Sizes, length: int) -> Any:
    return option("feed_forward", "dense", sizes, length)


def _moe(sizes: Sizes, length: int, *, name: str = "moe", **settings: Any) -> Any:
    # A gated part has two thirds of the hidden units that it is given.
    sized = {"n_experts": sizes.experts, "top_k": sizes.chosen, "d_expert": sizes.units * 3 // 2}
    return option("feed_forward", name, sizes, length, **sized, **settings)


def _all_to_one(sizes: Sizes, length: int, **settings: Any) -> Any:
    """Every token goes to the same experts, whatever it is."""
    made = _moe(sizes, length, **settings)
    made.router.bias[: sizes.chosen] = 1e3
    return made


def _hashed(sizes: Sizes, length: int) -> Any:
    return _moe(sizes, length, name="hash_moe")


def _units(ours: Any) -> int:
    units: int = ours.experts.down.shape[1]
    return units


def _config(kind: str, ours: Any, sizes: Sizes, way: str, **settings: Any) -> Any:
    module = model(kind)
    name = next(each for each in vars(module) if each.lower() == f"{kind.replace('_', '')}config")
    usual = {"hidden_size": sizes.width, "num_experts_per_tok": sizes.chosen, "num_attention_heads": sizes.heads}
    made = getattr(module, name)(**usual, moe_intermediate_size=_units(ours), num_hidden_layers=1, **settings)
    made._experts_implementation = WAYS[way]
    return made


def _same_experts(theirs: Any, ours: Any) -> None:
    copy(
        [
            (theirs.experts.gate_up_proj, ours.experts.up.mT),
            (theirs.experts.down_proj, ours.experts.down.mT),
            (theirs.gate.weight, ours.router.weight),
        ]
    )
    if ours.shared is not None:
        _same_dense(theirs.shared_experts, ours.shared)


def _same_dense(theirs: Any, ours: Any) -> None:
    gate, up = ours.up.weight.chunk(2)
    copy([(theirs.gate_proj.weight, gate), (theirs.up_proj.weight, up), (theirs.down_proj.weight, ours.down.weight)])


def _mlp(ours: Any, sizes: Sizes, length: int) -> Layer:
    module = model("deepseek_v3")
    units = ours.down.weight.shape[1]
    config = module.DeepseekV3Config(hidden_size=sizes.width, intermediate_size=units, num_attention_heads=sizes.heads)
    theirs = module.DeepseekV3MLP(config)
    _same_dense(theirs, ours)
    return peer("deepseek-v3-mlp", theirs, theirs)


def _deepseek(way: str, ours: Any, sizes: Sizes, length: int) -> Layer:
    groups = {"n_routed_experts": sizes.experts, "n_group": 1, "topk_group": 1}
    config = _config("deepseek_v3", ours, sizes, way, **groups, n_shared_experts=1, routed_scaling_factor=SCALE)
    theirs = model("deepseek_v3").DeepseekV3MoE(config)
    _same_experts(theirs, ours)
    copy([(theirs.gate.e_score_correction_bias, ours.router.bias)])
    return peer(f"deepseek-v3-{way}", theirs, theirs)


def _qwen3(way: str, ours: Any, sizes: Sizes, length: int) -> Layer:
    config = _config("qwen3_moe", ours, sizes, way, num_experts=sizes.experts, norm_topk_prob=True)
    theirs = model("qwen3_moe").Qwen3MoeSparseMoeBlock(config)
    _same_experts(theirs, ours)
    return peer(f"qwen3-moe-{way}", theirs, theirs)


def _mixtral(way: str, ours: Any, sizes: Sizes, length: int) -> Layer:
    units = {"num_local_experts": sizes.experts, "intermediate_size": _units(ours)}
    theirs = model("mixtral").MixtralSparseMoeBlock(_config("mixtral", ours, sizes, way, **units))
    _same_experts(theirs, ours)
    return peer(f"mixtral-{way}", theirs, theirs)


_SOFTMAX = {"qwen3-moe": _qwen3, "mixtral": _mixtral}


def _deepseek_v4(way: str, ours: Any, sizes: Sizes, length: int) -> Layer:
    """Its activation has a limit that is far above what comes here."""
    settings = {"n_routed_experts": sizes.experts, "scoring_func": "sqrtsoftplus", "routed_scaling_factor": 1.0}
    config = _config("deepseek_v4", ours, sizes, way, vocab_size=WORDS, mlp_layer_types=["hash_moe"], **settings)
    theirs = model("deepseek_v4").DeepseekV4SparseMoeBlock(config, 0)
    _same_experts(theirs, ours)
    copy([(theirs.gate.tid2eid, ours._given(torch.arange(WORDS)))])
    ids = _ids(sizes, length)
    return peer(f"deepseek-v4-{way}", theirs, lambda x: theirs(x, ids))
