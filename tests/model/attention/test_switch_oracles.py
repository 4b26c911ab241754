"""The switches of attention beside the models that have them, as `transformers` has these, with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from equations import random
from torch import Tensor, nn

from ablab.model.attention.full import FullAttention
from ablab.model.attention.layer import MultiHeadAttention
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.position import Rope
from ablab.model.spec import LayerSpec

pytest.importorskip("transformers", reason="the extra `bench` is not installed")

BASE, WIDTH, HEADS, KV_HEADS = 100.0, 32, 4, 2
SIZE = WIDTH // HEADS
LENGTHS = (1, 7, 40)
SIZES = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": SIZE,
    "num_hidden_layers": 1,
    "layer_types": ["full_attention"],
    "rms_norm_eps": 1e-6,
}
Spec = Callable[..., LayerSpec]


def oracle(module: str, names: str, **changes: Any) -> Any:
    """The first layer's attention, with weights of a size that makes scores of about 1."""
    package = import_module(f"transformers.models.{module}")
    config = getattr(package, f"{names}Config")(**SIZES, **changes)
    config._attn_implementation = "eager"
    layer = getattr(import_module(f"transformers.models.{module}.modeling_{module}"), f"{names}Attention")(config, 0)
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed) / (WIDTH**0.5 if parameter.ndim > 1 else 2))
    return layer.eval()


def angles(length: int, share: float = 1.0) -> Tensor:
    """(1, T, half of the rotated coordinates)"""
    size = int(share * SIZE)
    speed = BASE ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    return (torch.arange(length, dtype=torch.float64)[:, None] * speed)[None]


def copy(ours: nn.Module, theirs: nn.Module) -> None:
    assert isinstance(ours, nn.Linear)
    assert isinstance(theirs, nn.Linear)
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
        assert (ours.bias is None) == (theirs.bias is None)
        if ours.bias is not None:
            ours.bias.copy_(theirs.bias)


def compare(
    ours: MultiHeadAttention, theirs: Any, share: float, *, halves: bool, dtype: torch.dtype, window: int | None = None
) -> None:
    """Outputs and the gradient of the input at several lengths, with and without padding."""
    spec = LayerSpec(
        d_model=WIDTH, n_heads=HEADS, d_ff=8, layer_index=0, n_layers=1, max_length=64, causal=True, seed=0
    )
    torch.set_default_dtype(torch.float64)
    try:
        rope = Rope(spec, base=BASE, share=share)
    finally:
        torch.set_default_dtype(torch.float32)
    ours, theirs, rope = ours.to(dtype), theirs.to(dtype), rope.to(dtype)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    for length in LENGTHS:
        for padded in (False, True):
            x = random(2, length, WIDTH, seed=length).to(dtype).requires_grad_()
            padding = (torch.arange(length) < length // 3).expand(2, -1) if padded else None
            i, j = torch.arange(length)[:, None], torch.arange(length)
            hidden = (j > i) if window is None else (j > i) | (i - j >= window)
            hidden = hidden.expand(2, 1, -1, -1)
            if padding is not None:
                hidden = hidden | padding[:, None, None, :]
            mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
            angle = angles(length, share)
            angle = angle if halves else torch.cat([angle, angle], -1)
            places = angle.cos().to(dtype), angle.sin().to(dtype)
            expected, _ = theirs(hidden_states=x, position_embeddings=places, attention_mask=mask)
            found = ours(x, rope.rotate, padding)
            kept = torch.ones_like(x) if padding is None else (~padding).to(dtype)[..., None].expand_as(x)
            torch.testing.assert_close(found * kept, expected * kept, rtol=tolerance, atol=tolerance)
            direction = random(*x.shape, seed=1).to(dtype) * kept
            (mine,), (other,) = (torch.autograd.grad(out, x, direction) for out in (found, expected))
            torch.testing.assert_close(mine, other, rtol=10 * tolerance, atol=10 * tolerance)


def surroundings(make_spec: Spec, **changes: Any) -> LayerSpec:
    return make_spec(d_model=WIDTH, n_heads=HEADS, n_kv_heads=KV_HEADS, **changes)


@pytest.fixture
def exact_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them compute the softmax of any numbers in single precision."""
    monkeypatch.setattr(nn.functional, "softmax", lambda x, dim, dtype=None: torch.softmax(x, dim))


def copy_projections(ours: MultiHeadAttention, theirs: Any) -> None:
    for own, other in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "o_proj")):
        copy(getattr(ours, own), getattr(theirs, other))


@pytest.mark.parametrize("window", [None, 5])
def test_sinks_are_those_of_gpt_oss(make_spec: Spec, window: int | None) -> None:
    spec = surroundings(make_spec)
    core = FullAttention(spec, sinks=True) if window is None else WindowedAttention(spec, window=window, sinks=True)
    ours, theirs = MultiHeadAttention(spec, core=core), oracle("gpt_oss", "GptOss", attention_bias=True)
    copy_projections(ours, theirs)
    with torch.no_grad():
        assert core.sinks is not None
        core.sinks.copy_(theirs.sinks)
    compare(ours, theirs, 1.0, halves=True, dtype=torch.float64, window=window)


@pytest.mark.usefixtures("exact_softmax")
@pytest.mark.parametrize("window", [None, 5])
def test_bounded_scores_are_those_of_gemma_2(make_spec: Spec, window: int | None) -> None:
    spec = surroundings(make_spec, bias=False)
    core = FullAttention(spec, softcap=0.7) if window is None else WindowedAttention(spec, window=window, softcap=0.7)
    ours = MultiHeadAttention(spec, core=core)
    theirs = oracle("gemma2", "Gemma2", attn_logit_softcapping=0.7, query_pre_attn_scalar=SIZE)
    copy_projections(ours, theirs)
    compare(ours, theirs, 1.0, halves=False, dtype=torch.float64, window=window)


def test_norms_of_queries_and_keys_are_those_of_qwen_3(make_spec: Spec) -> None:
    spec = surroundings(make_spec, bias=False)
    ours, theirs = MultiHeadAttention(spec, core=FullAttention(spec, qk_norm=True)), oracle("qwen3", "Qwen3")
    copy_projections(ours, theirs)
    with torch.no_grad():
        for own, other in ((ours.query_norm, theirs.q_norm), (ours.key_norm, theirs.k_norm)):
            assert own is not None
            own.weight.copy_(other.weight)
    compare(ours, theirs, 1.0, halves=False, dtype=torch.float32)


def test_gate_norms_and_rotation_of_a_share_are_those_of_qwen_3_next(make_spec: Spec) -> None:
    spec = surroundings(make_spec, bias=False)
    core = FullAttention(spec, qk_norm=True, output_gate="feature")
    ours, theirs = MultiHeadAttention(spec, core=core), oracle("qwen3_next", "Qwen3Next")
    queries, gates = theirs.q_proj.weight.unflatten(0, (HEADS, 2, SIZE)).unbind(1)
    with torch.no_grad():
        assert ours.output_gate is not None
        ours.query.weight.copy_(queries.flatten(0, 1))
        ours.output_gate.weight.copy_(gates.flatten(0, 1))
        for own, other in ((ours.query_norm, theirs.q_norm), (ours.key_norm, theirs.k_norm)):
            assert own is not None
            own.weight.copy_(1 + other.weight)  # which they learn as the difference from 1
    for name, proj in (("key", "k_proj"), ("value", "v_proj"), ("output", "o_proj")):
        copy(getattr(ours, name), getattr(theirs, proj))
    compare(ours, theirs, 0.5, halves=False, dtype=torch.float32)
