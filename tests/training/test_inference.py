"""Costs in use against closed forms: bytes that are kept of a sequence, FLOPs of its last token."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.model.attention.full import FullAttention
from ablab.model.attention.layer import attention_layer
from ablab.model.attention.mla import LatentAttention
from ablab.model.spec import LayerSpec
from ablab.training import inference
from ablab.training.build import BuiltRun
from ablab.training.build_model import of_length

TinyConfig = Callable[..., RunConfig]

D, HEADS, LAYERS, D_FF, VOCABULARY = 32, 4, 2, 48, 27
SIZES = (
    *(f"model.d_model={D}", f"model.n_heads={HEADS}", f"model.n_layers={LAYERS}", f"model.d_ff={D_FF}"),
    *("activation=relu", "position=rope"),
)
LENGTHS = {"1k": 1024, "8k": 8192, "64k": 65536}


def cost_of(tiny_config: TinyConfig, *overrides: str) -> dict[str, int]:
    return vars(BuiltRun.of(tiny_config(*SIZES, *overrides)).cost)


def token_flops(seen: int, vocabulary: int, kv_width: int = D) -> int:
    """Of projections, scores and values of `seen` keys, feed-forward parts, and the head; two for a product."""
    return LAYERS * 2 * (2 * D * D + 2 * D * kv_width + 2 * D * seen + 2 * D * D_FF) + 2 * D * vocabulary


@pytest.fixture
def vocabulary(tiny_config: TinyConfig) -> int:
    return int(BuiltRun.of(tiny_config(*SIZES)).task.vocab_size)


def test_full_attention_keeps_and_sees_every_token(tiny_config: TinyConfig, vocabulary: int) -> None:
    cost = cost_of(tiny_config)
    for name, length in LENGTHS.items():
        assert cost[f"cache_bytes_{name}"] == LAYERS * 2 * length * D * 4
        assert cost[f"decode_flops_{name}"] == token_flops(length, vocabulary)
    scores = LAYERS * 2 * 2 * D * 32 * 32  # all of them, the hidden half too
    assert cost["prefill_flops"] == 32 * token_flops(0, vocabulary) + scores


def test_shared_heads_keep_less_and_see_as_much(tiny_config: TinyConfig, vocabulary: int) -> None:
    cost = cost_of(tiny_config, "model.n_kv_heads=1")
    assert cost["cache_bytes_8k"] == LAYERS * 2 * 8192 * (D // HEADS) * 4
    assert cost["decode_flops_8k"] == token_flops(8192, vocabulary, D // HEADS)


def test_a_window_keeps_and_sees_no_more_than_it_holds(tiny_config: TinyConfig, vocabulary: int) -> None:
    cost = cost_of(tiny_config, "attention=windowed", "attention.window=100")
    for name in LENGTHS:
        assert cost[f"cache_bytes_{name}"] == LAYERS * 2 * 100 * D * 4
        assert cost[f"decode_flops_{name}"] == token_flops(100, vocabulary)


@pytest.mark.parametrize("changes", [(), ("attention.sinks=true",), ("position=alibi",)])
def test_a_latent_is_multiplied_once_as_key_and_once_as_value(
    changes: tuple[str, ...], tiny_config: TinyConfig
) -> None:
    cost = cost_of(tiny_config, "attention=mla", "attention.kv_rank=12", "attention.rope_size=4", *changes)
    more = cost["decode_flops_8k"] - cost["decode_flops_1k"]
    assert more == LAYERS * (8192 - 1024) * HEADS * 2 * ((12 + 4) + 12)


@pytest.mark.parametrize("task", ["listops", "pixels"])
def test_answers_to_whole_inputs_have_none(task: str, tiny_config: TinyConfig) -> None:
    built = BuiltRun.of(tiny_config(f"task={task}"))
    assert built.cost.cache_bytes_8k is None
    assert built.cost.decode_flops_8k is None


def test_a_component_that_takes_no_such_lengths_fails_no_run(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("no more than 32 tokens")

    monkeypatch.setattr(inference, "_costs", refuse)
    cost = cost_of(tiny_config, "model.d_ff=47")
    assert cost["parameters"] > 0
    assert cost["decode_flops_1k"] is None


def test_a_model_of_another_length_differs_in_its_table_alone(tiny_config: TinyConfig) -> None:
    built = BuiltRun.of(tiny_config("position=learned"))
    longer = of_length(built.config, built._model_factory, 100, 32)
    shapes = {name: tuple(each.shape) for name, each in built.shapes.named_parameters()}
    others = {name: tuple(each.shape) for name, each in longer.named_parameters()}
    assert {name for name in shapes if shapes[name] != others[name]} == {"position.weight"}


def test_costs_at_a_length_are_of_the_model_that_was_trained(tiny_config: TinyConfig) -> None:
    """A stride that goes by the length stays that of the training, as it does in an evaluation."""
    built = BuiltRun.of(tiny_config("attention=block_sparse", "attention.block=4"))
    longer = of_length(built.config, built._model_factory, 1000, 32)
    strides = [part.stride for model in (built.shapes, longer) for part in model.modules() if hasattr(part, "stride")]
    assert strides == [3, 3]
    assert built.cost.decode_flops_1k == inference.decode_flops(built._of_length(1024).eval(), 1024)


def test_what_is_kept_of_a_token_is_what_papers_say() -> None:
    """DeepSeek-V2 (arXiv 2405.04434), table 1, with 128 heads of 128: 2 n d, 2 g d, 2 d, and 9/2 d of latent attention.

    That is as much as grouped heads keep in 2.25 groups.
    """

    def kept(option: Callable[..., Any], groups: int | None, **settings: int) -> int | None:
        size = {"d_model": 128 * 128, "n_heads": 128, "n_kv_heads": groups, "d_ff": 1, "layer_index": 0, "n_layers": 1}
        spec = LayerSpec(**size, max_length=8, causal=True, seed=0)  # type: ignore[arg-type]
        with torch.device("meta"):
            return attention_layer(spec, partial(option, **settings)).cache_numbers(1)

    assert [kept(FullAttention, groups) for groups in (None, 8, 1)] == [2 * 128 * 128, 2 * 8 * 128, 2 * 128]
    latent = kept(LatentAttention, None, kv_rank=512, rope_size=64)
    assert latent == 9 * 128 // 2 == 2.25 * 2 * 128
