from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from equations import check_defined, fill, linear, random
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.attention import compressed_core, dense
from ablab.model.attention.compressed import CompressedSparseAttention, HeavilyCompressedAttention
from ablab.model.attention.compressed_core import CompressedCore
from ablab.model.attention.compressed_layer import CompressedAttention
from ablab.model.attention.indexer import Index
from ablab.model.context import unrotated
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]
SPARSE: dict[str, Any] = {"block": 2, "window": 3, "keys": 2, "index_heads": 2, "index_weight": 0.7, "rope_base": 100.0}
HEAVY: dict[str, Any] = {"block": 3, "window": 3, "rope_base": 100.0}
ROPE = 4  # rotated coordinates of heads of 8


def build(spec: LayerSpec, *, sparse: bool, **options: Any) -> Any:
    torch.set_default_dtype(torch.float64)  # for the tables of the rotation
    try:
        layer: CompressedAttention
        if sparse:
            layer = CompressedSparseAttention(spec, **(SPARSE | options))
        else:
            layer = HeavilyCompressedAttention(spec, **(HEAVY | options))
    finally:
        torch.set_default_dtype(torch.float32)
    fill(layer)
    return layer


def projected(x: Tensor, output: Any) -> Tensor:
    """All heads at once, or group by group."""
    if isinstance(output, torch.nn.Sequential):
        first: Any = output[0]
        parts = x.chunk(len(first.weight), -1)
        x, output = torch.cat([part @ each for part, each in zip(parts, first.weight, strict=True)], -1), output[1]
    y: Tensor = linear(x, output)
    return y


def scaled(x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def turned(x: Tensor, place: int) -> Tensor:
    """x (D), whose last coordinates are pairs of i and i + half, turned as complex numbers."""
    half = ROPE // 2
    plain, turning = x[:-ROPE], x[-ROPE:]
    angle = place * 100.0 ** (-torch.arange(0, ROPE, 2, dtype=torch.float64) / ROPE)
    pairs = torch.complex(turning[:half], turning[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([plain, pairs.real, pairs.imag])


def entries_of(compressor: Any, x: Tensor, there: list[bool], block: int) -> dict[int, Tensor]:
    """Equations 9 to 12 and 20 to 23, window by window: those that have any token of their own."""
    D, T = compressor.size, len(x)
    content, gate = linear(x, compressor.content), linear(x, compressor.gate)
    found = {}
    for n in range(math.ceil(T / block)):
        slots = [(s, -D) for s in range(n * block, min((n + 1) * block, T))]
        if compressor.overlap and n:
            slots += [(s, 0) for s in range((n - 1) * block, n * block)]
        slots = [(s, half % content.shape[1]) for s, half in slots if there[s]]
        if any(there[n * block : (n + 1) * block]):
            own = [
                (content[s, h : h + D], gate[s, h : h + D] + compressor.place[s % block, h : h + D]) for s, h in slots
            ]
            weights = torch.stack([z for _, z in own]).softmax(0)
            mean = (weights * torch.stack([c for c, _ in own])).sum(0)
            found[n] = turned(scaled(mean, compressor.norm.weight), n * block)
    return found


def by_definition(
    layer: Any, spec: LayerSpec, x: Tensor, padding: Tensor | None, *, block: int, window: int, warming: bool
) -> tuple[Tensor, Tensor]:
    """Query by query: the output, and what the indexer is to lose."""
    H, D, T, core = spec.n_heads, spec.head_size, x.shape[1], layer.core
    out, lost = [], []
    for b in range(len(x)):
        there = [padding is None or not bool(padding[b, t]) for t in range(T)]
        latent = x[b]
        if isinstance(layer.query_latent, torch.nn.Sequential):
            latent = scaled(linear(x[b], layer.query_latent[0]), layer.query_latent[1].weight)  # type: ignore[arg-type]
        q = scaled(linear(latent, layer.query).view(T, H, D))
        k = scaled(linear(x[b], layer.key), layer.key_norm.weight)
        tokens = [turned(k[t], t) for t in range(T)]
        entries = entries_of(layer.compressor, x[b], there, block)
        rows, losses = [], []
        for t in range(T):
            near = [s for s in range(T) if there[s] and (0 <= t - s < window if spec.causal else abs(t - s) <= window)]
            seen = [n for n in entries if not spec.causal or (n + 1) * block - 1 <= t]
            index: dict[int, Tensor] = {}
            if layer.indexer is not None:
                own = entries_of(layer.indexer.compressor, x[b].detach(), there, block)
                heads = linear(latent.detach()[t], layer.indexer.query).view(-1, layer.indexer.head_size)
                w = linear(x[b, t].detach(), layer.indexer.weight)
                for n in seen:
                    alike = [(own[n] @ turned(each, t)).relu() for each in heads]
                    index[n] = (w * torch.stack(alike)).sum() / math.sqrt(heads.numel())
                if not warming:
                    seen = sorted(seen, key=lambda n: (index[n].item(), n))[-core.keys :]
            keys = [tokens[s] for s in near] + [entries[n] for n in seen]
            mixed, shares = [], torch.zeros(len(seen), dtype=x.dtype)
            for h in range(H):
                if not keys:
                    mixed.append(torch.zeros(D, dtype=x.dtype))
                    continue
                scores = torch.stack(keys) @ turned(q[t, h], t) / math.sqrt(D)
                if core.softcap is not None:
                    scores = core.softcap * (scores / core.softcap).tanh()
                weights = scores.exp() / (scores.exp().sum() + (0 if core.sinks is None else core.sinks[h].exp()))
                mixed.append(turned(weights @ torch.stack(keys), -t))
                shares = shares + weights[len(near) :].detach()
            rows.append(torch.cat(mixed))
            if there[t]:
                losses.append(x.new_zeros(()))
                if seen and index:
                    p, guess = shares / shares.sum(), torch.stack([index[n] for n in seen]).log_softmax(0)
                    losses[-1] = (p * (p.log() - guess)).sum()
        out.append(projected(torch.stack(rows), layer.output))
        lost.append(torch.stack(losses).mean() if losses else x.new_zeros(()))
    weight = 0.0 if core.learning is None else core.learning.weight
    return torch.stack(out), weight * torch.stack(lost).mean()


def check(
    layer: Any, spec: LayerSpec, *, length: int, padded: float | None = None, seed: int = 0, warming: bool = False
) -> None:

    def definition(x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        return by_definition(layer, spec, x, padding, block=layer.core.block, window=layer.core.window, warming=warming)

    check_defined(layer, definition, unrotated, (2, length, spec.d_model), padded, seed)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 13),
    sparse=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "block": st.integers(1, 4),
            "window": st.integers(1, 5),
            "q_rank": st.sampled_from([None, 5]),
            "output_rank": st.sampled_from([None, 3]),
            "sinks": st.booleans(),
            "softcap": st.sampled_from([None, 2.0]),
        }
    ),
    causal=st.booleans(),
    bias=st.booleans(),
    padded=st.sampled_from([None, 0.3, 1.0]),
    warming=st.booleans(),
    queries=st.sampled_from([1, 4, 128]),
    seed=st.integers(0, 1000),
)
def test_outputs_penalty_and_gradients_are_those_of_the_definition(
    make_spec: Spec, length: int, sparse: bool, options: dict[str, Any], causal: bool, bias: bool,
    padded: float | None, warming: bool, queries: int, seed: int,
) -> None:  # fmt: skip
    spec = make_spec(causal=causal, bias=bias)
    groups = {"output_groups": 2} if options["output_rank"] else {}
    of_index = {"warmup_steps": int(warming), "index_size": 6} if sparse else {}
    layer = build(spec, sparse=sparse, **options, **groups, **of_index)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed_core, "QUERIES", queries)
        patch.setattr(dense, "KEPT", 10 * queries)  # of few scores everything is kept
        check(layer, spec, length=length, padded=padded, seed=seed, warming=warming)


class _TooEarly(CompressedCore):
    """An entry is seen from the first token of its window on."""

    def allowed(self, positions: Tensor, there: Tensor) -> Tensor:
        starts = torch.arange(there.shape[1]) * self.block
        return (starts <= positions[:, None]) & there[:, None, :]


class _Unlearned(torch.nn.Module):
    def __init__(self, indexer: Any) -> None:
        super().__init__()
        self.indexer = indexer

    @torch.no_grad()
    def forward(self, *args: Tensor) -> Index:
        made: Index = self.indexer(*args)
        return made


@pytest.mark.parametrize("sparse", [True, False])
def test_an_entry_seen_before_its_window_is_past_is_found_out(make_spec: Spec, sparse: bool) -> None:
    spec = make_spec()
    layer, x = build(spec, sparse=sparse, window=1, **({"keys": 12} if sparse else {})), random(1, 12, 16)

    def leaks() -> bool:
        changed = x.clone()
        changed[:, 7:] += 1
        layer.eval()
        return not torch.allclose(layer(changed, unrotated)[:, :7], layer(x, unrotated)[:, :7], rtol=0, atol=1e-12)

    assert not leaks()
    layer.core.__class__ = _TooEarly
    assert leaks()


def test_an_indexer_without_gradient_is_found_out(make_spec: Spec) -> None:
    layer, x = build(make_spec(), sparse=True, warmup_steps=1), random(1, 12, 16)

    def learns() -> bool:
        layer(x, unrotated)
        penalty = layer.core.learning.penalty()
        return bool(penalty.requires_grad)

    assert learns()
    layer.indexer = _Unlearned(layer.indexer)
    assert not learns()


def test_the_penalty_moves_the_indexer_alone_and_the_task_all_else(make_spec: Spec) -> None:
    layer, x = build(make_spec(), sparse=True, q_rank=6, output_gate="head"), random(2, 12, 16)
    out = layer(x, unrotated)
    indexed = {name for name, _ in layer.named_parameters() if name.startswith("indexer.")}
    others = {name for name, _ in layer.named_parameters()} - indexed
    for total, moved in ((layer.core.learning.penalty(), indexed), (out.square().sum(), others)):
        layer.zero_grad()
        total.backward(retain_graph=True)
        assert {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.any()} == moved


@pytest.mark.parametrize("sparse", [True, False])
def test_what_a_value_brings_depends_on_its_distance_alone(make_spec: Spec, sparse: bool) -> None:
    """A sequence behind whole windows of padding gives what it gives alone."""
    layer, x = build(make_spec(), sparse=sparse), random(2, 12, 16)
    shift = 2 * layer.core.block
    behind = torch.cat([random(2, shift, 16, seed=1), x], 1)
    padding = torch.arange(shift + 12).expand(2, -1) < shift
    out = layer.eval()(behind, unrotated, padding)[:, shift:]
    torch.testing.assert_close(out, layer(x, unrotated), rtol=1e-9, atol=1e-9)


def test_figures_are_those_of_the_weights(make_spec: Spec) -> None:
    layer, x = build(make_spec(), sparse=True, keys=3, sinks=True), random(1, 12, 16)
    given: list[Tensor] = []
    layer.core.register_forward_hook(
        lambda core, args, kwargs, out: given.extend([*args[:2], *kwargs["index"]]), with_kwargs=True
    )
    layer.eval()(x, unrotated)
    q, k, *index = given
    places = torch.arange(12)
    found = layer.core.compared(q, k, places, *index)
    assert found.keys() == set(layer.core.compares)
    assert found["entries_visited"][0].tolist() == [min(3, (t + 1) // 2) for t in range(12)]
    tokens = layer.core.weights(q, k, places, *index)
    assert not tokens[~layer.core.visited(q, k, places, *index).expand_as(tokens)].any()
    total = tokens.sum(-1).mean(1) + found["entry_share"] + found["sink_share"]
    torch.testing.assert_close(total, torch.ones_like(total))
    assert (found["index_recall"][0, :7] == 1).all()  # none to find, then up to three entries: all are found
    assert (found["index_recall_at_random"][0, :7] == 1).all()
    assert (found["index_recall"] <= 1).all()


@pytest.mark.parametrize(
    ("sparse", "changes", "message"),
    [
        (True, {"keys": 0}, "attention.keys must be at least 1, got 0"),
        (True, {"index_heads": 0}, "attention.index_heads must be at least 1, got 0"),
        (True, {"index_weight": 0.0}, "attention.index_weight must be above 0"),
        (True, {"block": 0}, "attention.block must be at least 1, got 0"),
        (False, {"block": 0}, "attention.block must be at least 1, got 0"),
        (False, {"window": 0}, "attention.window must be at least 1, got 0"),
        (True, {"index_size": 2}, "attention.index_size=2: must be at least the 4 rotated coordinates"),
        (False, {"output_rank": 0}, "attention.output_rank must be at least 1, got 0"),
        (False, {"output_groups": 2}, "attention.output_groups=2 needs an attention.output_rank"),
        (False, {"output_groups": 3, "output_rank": 4}, "attention.output_groups=3 does not divide model.n_heads=2"),
        (False, {"q_rank": 0}, "attention.q_rank must be at least 1, got 0"),
        (False, {"rope_size": 3}, "attention.rope_size=3 must be even, from 2 to the 8 coordinates of a head"),
        (False, {"qk_norm": True}, "attention.qk_norm=true: compressed attention normalises"),
    ],
)
def test_settings_out_of_range(make_spec: Spec, sparse: bool, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(make_spec(), sparse=sparse, **changes)


def test_grouped_heads_are_refused(make_spec: Spec) -> None:
    with pytest.raises(ValueError, match=r"model.n_kv_heads=1: compressed attention has one head .*n_kv_heads=null"):
        build(make_spec(n_kv_heads=1), sparse=False)


def permuted(x: Tensor, dim: int, size: int = 8) -> Tensor:
    """The trailing 4 coordinates of each head, which the oracle has as pairs of neighbours, as pairs half apart."""
    order = torch.tensor([*range(size - 4), *(size - 4 + i for i in (0, 2, 1, 3))])
    heads = torch.arange(x.shape[dim]).view(-1, size)[:, order].flatten()
    return x.index_select(dim, heads)


def copy_compressor(ours: Any, theirs: Any) -> None:
    ours.content.weight.copy_(permuted(theirs.kv_proj.weight, 0, ours.size))
    ours.gate.weight.copy_(permuted(theirs.gate_proj.weight, 0, ours.size))
    ours.place.copy_(permuted(theirs.position_bias, 1, ours.size))
    ours.norm.weight.copy_(permuted(theirs.kv_norm.weight, 0, ours.size))


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("length", [1, 3, 8, 41])
def test_it_is_that_of_transformers(sparse: bool, length: int) -> None:
    """DeepSeek-V4's attention with the same weights; it has positions in single precision."""
    package = pytest.importorskip("transformers.models.deepseek_v4", reason="the extra `bench` is not installed")
    modelling = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")
    kind = "compressed_sparse_attention" if sparse else "heavily_compressed_attention"
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
    config = package.DeepseekV4Config(
        hidden_size=16, num_attention_heads=2, head_dim=8, q_lora_rank=12, num_hidden_layers=1, layer_types=[kind],
        compress_rates={"compressed_sparse_attention": 2, "heavily_compressed_attention": 3}, sliding_window=3,
        o_groups=2, o_lora_rank=5, index_n_heads=8, index_head_dim=6, index_topk=2, max_position_embeddings=64,
        rope_parameters={"main": rope, "compress": rope},
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = modelling.DeepseekV4Attention(config, 0).double()
    with torch.no_grad():
        for seed, parameter in enumerate(theirs.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed) / (4 if parameter.ndim > 1 else 2))
    spec = LayerSpec(
        d_model=16, n_heads=2, d_ff=8, layer_index=0, n_layers=1, max_length=64, causal=True, seed=0, bias=False
    )
    of_index = {"index_heads": 8, "index_size": 6} if sparse else {}
    ours = build(spec, sparse=sparse, q_rank=12, sinks=True, output_groups=2, output_rank=5, **of_index)
    with torch.no_grad():
        ours.query_latent[0].weight.copy_(theirs.q_a_proj.weight)
        ours.query_latent[1].weight.copy_(theirs.q_a_norm.weight)
        ours.query.weight.copy_(permuted(theirs.q_b_proj.weight, 0))
        ours.key.weight.copy_(permuted(theirs.kv_proj.weight, 0))
        ours.key_norm.weight.copy_(permuted(theirs.kv_norm.weight, 0))
        ours.core.sinks.copy_(theirs.sinks)
        ours.output[0].weight.copy_(permuted(theirs.o_a_proj.weight.view(2, 5, 8).transpose(1, 2), 1))
        ours.output[1].weight.copy_(theirs.o_b_proj.weight)
        copy_compressor(ours.compressor, theirs.compressor)
        if sparse:
            copy_compressor(ours.indexer.compressor, theirs.compressor.indexer)
            ours.indexer.query.weight.copy_(permuted(theirs.compressor.indexer.q_b_proj.weight, 0, 6))
            ours.indexer.weight.weight.copy_(theirs.compressor.indexer.scorer.weights_proj.weight)
    x, places = random(2, length, 16).requires_grad_(), torch.arange(length)
    rotary = modelling.DeepseekV4RotaryEmbedding(config)
    cos_sin = rotary(x, position_ids=places.expand(2, -1), layer_type="compress")
    distance = places[:, None] - places
    hidden = torch.zeros(2, 1, length, length, dtype=torch.float64)
    hidden = hidden.masked_fill((distance < 0) | (distance >= 3), -math.inf)
    expected, _ = theirs(x, {"main": cos_sin, "compress": cos_sin}, places.expand(2, -1), hidden)
    out = ours.eval()(x, unrotated)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    found = [torch.autograd.grad(each.square().sum(), x)[0] for each in (out, expected)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
