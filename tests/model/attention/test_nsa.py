from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from equations import fill, linear, random
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import gelu

from ablab.model.attention import blocks as key_blocks
from ablab.model.attention import dense, nsa_core
from ablab.model.attention.blocks import Compression, selected_attention
from ablab.model.attention.nsa import NativeSparseAttention
from ablab.model.initialisation import initialise
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]

SIZES = {"compress_block": 4, "compress_stride": 2, "select_block": 4, "selected_blocks": 4, "window": 3}


def stretch(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """A position encoding of a sort: each position has a factor of its own."""
    time = torch.arange(q.shape[2], dtype=q.dtype)[:, None]
    return q * (1 + 0.1 * time), k * (2 - 0.03 * time)


def build(spec: LayerSpec, **options: Any) -> NativeSparseAttention:
    layer = NativeSparseAttention(spec, **(SIZES | options)).double()
    fill(layer)
    return layer


def compressed(x: Tensor, there: Sequence[bool], start: int, network: Compression) -> Tensor:
    """One block of x (T, D) from `start` on; what is not there, or beyond the end, is zero."""
    tokens = [
        x[t] + network.place.weight[t - start] if t < len(x) and there[t] else torch.zeros_like(x[0])
        for t in range(start, start + network.block)
    ]
    value: Tensor = linear(gelu(linear(torch.cat(tokens), network.into)), network.out)
    return value


def shares(q: Tensor, keys: list[Tensor], sink: Tensor | None, softcap: float | None) -> Tensor:
    """Weights of one query's keys, of which there are some."""
    scores = torch.stack(keys) @ q / math.sqrt(len(q))
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    return scores.exp() / (scores.exp().sum() + (0 if sink is None else sink.exp()))


def attended(q: Tensor, keys: list[Tensor], values: list[Tensor], sink: Tensor | None, softcap: float | None) -> Tensor:
    return shares(q, keys, sink, softcap) @ torch.stack(values) if keys else torch.zeros_like(q)


def scaled(x: Tensor, norm: Any) -> Tensor:
    """x (..., D) with the norm of its heads, if any."""
    return x if norm is None else x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


def selected_blocks(importance: dict[int, float], own: int, count: int, causal: bool) -> list[int]:
    """The `count` most important of the blocks, those that are always selected first, of equal ones the last."""
    always = {0, own - 1, own} if causal else {0, own - 1, own, own + 1}
    return sorted(importance, key=lambda j: (math.inf if j in always else importance[j], j))[-count:]


def by_definition(
    layer: NativeSparseAttention,
    spec: LayerSpec,
    x: Tensor,
    padding: Tensor | None,
    sizes: dict[str, int],
    visited: Tensor | None = None,
) -> Tensor:
    """Section 3 of the paper, query by query. `visited` (B, K, T, T) is filled with the tokens seen one by one."""
    length, stride = sizes["compress_block"], sizes["compress_stride"]
    block, count, window = sizes["select_block"], sizes["selected_blocks"], sizes["window"]
    H, K, D, T = spec.n_heads, spec.kv_heads, spec.head_size, x.shape[1]
    core: Any = layer.core
    gate: Any = layer.gate
    rows = []
    for b in range(len(x)):
        there = [padding is None or not bool(padding[b, t]) for t in range(T)]
        present = {j for j in range(math.ceil(T / block)) if any(there[j * block : (j + 1) * block])}
        q = scaled(linear(x[b], layer.query).view(T, H, D), layer.query_norm)
        k = scaled(linear(x[b], layer.key).view(T, K, 3, D), layer.key_norm)
        v = linear(x[b], layer.value).view(T, K, 3, D)
        gates = linear(gelu(linear(x[b], gate[0])), gate[2]).sigmoid().view(T, H, 3)
        turned, _ = stretch(q.transpose(0, 1)[None], q.transpose(0, 1)[None])
        turned = turned[0].transpose(0, 1)
        mixed = torch.zeros(T, H, D, dtype=x.dtype)
        for g in range(K):
            _, k_s = stretch(k[None, None, :, g, 1], k[None, None, :, g, 1])
            _, k_w = stretch(k[None, None, :, g, 2], k[None, None, :, g, 2])
            k_s, k_w = k_s[0, 0], k_w[0, 0]
            heads = range(g * H // K, (g + 1) * H // K)
            starts = [s for s in range(0, T, stride) if s == 0 or s - stride + length < T]
            news = {s: 0 if spec.causal or s == 0 else length - stride for s in starts}  # behind the block before
            starts = [s for s in starts if any(there[s + news[s] : s + length])]
            small_k = {s // stride: compressed(k[:, g, 0], there, s, core.compress_key) for s in starts}
            small_v = {s // stride: compressed(v[:, g, 0], there, s, core.compress_value) for s in starts}
            for t in range(T):
                seen = [i for i in small_k if not spec.causal or i * stride + length - 1 <= t]
                candidates = [j for j in present if not spec.causal or j * block <= t]
                importance = dict.fromkeys(candidates, 0.0)
                for h in heads:
                    if not seen:
                        continue
                    sink = None if core.sinks is None else core.sinks[h]
                    weights = shares(q[t, h], [small_k[i] for i in seen], sink, core.softcap)
                    share = dict(zip(seen, weights.tolist(), strict=True))
                    for j in candidates:
                        for m in range(block // stride):
                            for n in range(length // stride):
                                importance[j] += share.get(j * block // stride + m - n, 0.0)
                blocks = selected_blocks(importance, t // block, count, spec.causal)
                tokens = [s for s in range(T) if there[s] and s // block in blocks and (s <= t or not spec.causal)]
                near = [
                    s for s in range(T) if there[s] and (0 <= t - s < window if spec.causal else abs(t - s) <= window)
                ]
                if visited is not None:
                    visited[b, g, t, tokens + near] = True
                for h in heads:
                    sinks = (None, None) if core.sinks is None else (core.sinks[h], core.window.sinks[h])
                    how, last = (sinks[0], core.softcap), (sinks[1], core.softcap)
                    branches = [
                        attended(q[t, h], [small_k[i] for i in seen], [small_v[i] for i in seen], *how),
                        attended(turned[t, h], [k_s[s] for s in tokens], [v[s, g, 1] for s in tokens], *how),
                        attended(turned[t, h], [k_w[s] for s in near], [v[s, g, 2] for s in near], *last),
                    ]
                    mixed[t, h] = sum(gate * branch for gate, branch in zip(gates[t, h], branches, strict=True))
        rows.append(linear(mixed.flatten(1), layer.output))
    return torch.stack(rows)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 40),
    blocks=st.sampled_from([(4, 2, 4), (2, 2, 2), (4, 2, 8), (6, 2, 2), (3, 1, 2), (3, 3, 3), (2, 2, 6)]),
    selected=st.integers(4, 6),
    window=st.sampled_from([1, 3, 50]),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (2, 1)]),
    causal=st.booleans(),
    padded=st.sampled_from([None, 0.4]),
    gather_from=st.sampled_from([0, 16]),
    at_once=st.sampled_from([1, 3000, 10**7]),
    switches=st.sampled_from([{}, {"qk_norm": True}, {"sinks": True}, {"softcap": 0.8, "sinks": True}]),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_are_those_of_the_definition(
    make_spec: Spec,
    length: int,
    blocks: tuple[int, int, int],
    selected: int,
    window: int,
    heads: tuple[int, int],
    causal: bool,
    padded: float | None,
    gather_from: int,
    at_once: int,
    switches: dict[str, Any],
    seed: int,
) -> None:
    spec = make_spec(d_model=4 * heads[0], n_heads=heads[0], n_kv_heads=heads[1], causal=causal)
    names = ("compress_block", "compress_stride", "select_block", "selected_blocks", "window")
    sizes = dict(zip(names, (*blocks, selected, window), strict=True))
    layer = build(spec, **sizes, **switches)
    x = random(1, length, spec.d_model, seed=seed).requires_grad_()
    padding = None if padded is None else random(1, length, seed=seed).sigmoid() < padded
    inputs = [x, *layer.parameters()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_blocks, "GATHER_FROM", gather_from)
        patch.setattr(nsa_core, "SLICE", at_once)
        patch.setattr(dense, "KEPT", at_once)  # of few scores everything is kept
        out = layer(x, stretch, padding)
        # What comes out where there is no token means nothing.
        there = torch.ones(1, length, 1) if padding is None else ~padding[..., None]
        direction = random(*out.shape, seed=seed) * there
        ours = torch.autograd.grad(out, inputs, direction)
    expected = by_definition(layer, spec, x, padding, sizes)
    torch.testing.assert_close(out * there, expected * there, rtol=1e-9, atol=1e-9)
    theirs = torch.autograd.grad(expected, inputs, direction, allow_unused=True, materialize_grads=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


def inside(layer: NativeSparseAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the core is given as queries and keys."""
    given: list[Tensor] = []
    handle = layer.core.register_forward_hook(lambda core, args, out: given.extend(args[:2]))
    layer(x, stretch)
    handle.remove()
    q, k = given
    return q, k


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_visited_are_the_tokens_of_selected_blocks_and_window(make_spec: Spec, causal: bool, n_kv_heads: int) -> None:
    spec = make_spec(n_heads=4, n_kv_heads=n_kv_heads, causal=causal)
    layer, x = build(spec), random(2, 38, 16)
    expected = torch.zeros(2, n_kv_heads, 38, 38, dtype=torch.bool)
    by_definition(layer, spec, x, None, SIZES, expected)
    q, k = inside(layer, x)
    positions = torch.tensor([0, 3, 17, 30, 37])
    visited = layer.core.visited(q, k, positions)
    assert torch.equal(visited, expected.repeat_interleave(4 // n_kv_heads, dim=1)[:, :, positions])
    assert not visited.all(-1).any()
    weights = layer.core.weights(q, k, positions)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5, dtype=torch.float64))
    assert torch.equal(weights > 0, visited)


def test_weights_are_those_of_the_two_branches(make_spec: Spec) -> None:
    layer, x = build(make_spec()), random(1, 30, 16)
    q, k = inside(layer, x)
    v = torch.zeros(1, 2, 30, 90, dtype=torch.float64)
    v[..., 30:60] = v[..., 60:] = torch.eye(30, dtype=torch.float64)
    core: Any = layer.core
    core.compress_value = nn.Module()  # has nothing to say about weights, and takes values of another size
    core.compress_value.forward = lambda x, there: x.new_zeros(1, 2, core.compress_key.count(30), 30)
    positions = torch.tensor([0, 12, 29])
    mean = core(q, k, v)[:, :, positions].unflatten(-1, (3, 30))[..., 1:, :].mean(-2)
    torch.testing.assert_close(core.weights(q, k, positions), mean)


@pytest.mark.parametrize(
    ("compress_block", "select_block", "overlaps"),
    [
        # Blocks of the selection against compressed ones, in shared strides of two tokens.
        (2, 2, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        (4, 4, [[2, 1, 0, 0], [0, 1, 2, 1]]),
        (4, 2, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]),
        (2, 4, [[1, 1, 0, 0], [0, 0, 1, 1]]),
        (8, 4, [[2, 1, 0, 0], [2, 2, 2, 1]]),
    ],
)
def test_importance_goes_by_overlap(
    make_spec: Spec, compress_block: int, select_block: int, overlaps: list[list[int]]
) -> None:
    core: Any = build(make_spec(), compress_block=compress_block, select_block=select_block).core
    found = core.compress_key.shares_of(torch.eye(4, dtype=torch.float64), core.select_block, len(overlaps)).T
    assert found.tolist() == overlaps


def test_the_blocks_that_matter_are_found(make_spec: Spec) -> None:
    """A query that is like the tokens of one far block sees that block besides those that are always seen."""
    layer = build(make_spec(n_heads=1, d_model=8), compress_block=4, compress_stride=4)
    core: Any = layer.core
    with torch.no_grad():  # the compression takes a mean: gelu(x) - gelu(-x) = x
        core.compress_key.place.weight.zero_()
        mean = torch.eye(8, dtype=torch.float64).repeat(1, 4) / 4
        core.compress_key.into.weight.copy_(torch.cat([mean, -mean]))
        core.compress_key.into.bias.zero_()
        core.compress_key.out.weight.copy_(torch.cat([torch.eye(8), -torch.eye(8)], dim=1))
    k, q = torch.zeros(1, 1, 40, 24, dtype=torch.float64), torch.zeros(1, 1, 40, 24, dtype=torch.float64)
    k[..., 12:16, 5] = q[..., 5] = 3.0
    visited = core.visited(q, k, torch.tensor([14, 20, 39]))[0, 0]
    # Before the far block has ended its compression is not seen; the blocks before are level, and the last is taken.
    seen = [set((row.nonzero().flatten() // 4).tolist()) for row in visited]
    assert seen == [{0, 1, 2, 3}, {0, 3, 4, 5}, {0, 3, 8, 9}]


def test_nothing_depends_on_later_tokens(make_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsa_core, "SLICE", 3000)
    layer, first = build(make_spec()), random(1, 40, 16)
    for place in range(1, 40):
        second = torch.cat([first[:, :place], random(1, 40 - place, 16, seed=9)], dim=1)
        before, after = layer(first, stretch), layer(second, stretch)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-11)
        torch.testing.assert_close(layer(first[:, :place], stretch), before[:, :place], rtol=0, atol=1e-11)


def test_gathering_is_as_hiding(make_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 as well, with values of another size and queries that see nothing."""
    q, k, v = (random(2, *shape).float() for shape in ((4, 7, 8), (2, 21, 8), (2, 21, 5)))
    chosen = random(2, 2, 7, 6).sigmoid() > 0.8
    count = int(chosen.sum(-1).max())
    there = random(2, 21).sigmoid() > 0.3
    for last in (None, torch.arange(14, 21)):
        outs = []
        for gather_from in (0, 100):
            monkeypatch.setattr(key_blocks, "GATHER_FROM", gather_from)
            outs.append(selected_attention(q, k, v, chosen, 4, count, there, last))
        torch.testing.assert_close(*outs)
        assert not outs[0][(~chosen.any(-1)).repeat_interleave(2, dim=1)].any()


def test_memory_kept_grows_with_the_length_and_not_with_its_square(
    make_spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nsa_core, "SLICE", 2**16)
    layer = build(make_spec(d_model=8, max_length=2048), window=8)

    def saved(length: int) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            kept = layer(random(1, length, 8), stretch)
        assert kept.requires_grad
        return sum(storages.values())

    assert saved(2048) <= 4.4 * saved(512)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_padding_alone(make_spec: Spec, dtype: torch.dtype) -> None:
    layer = build(make_spec()).to(dtype)
    x = random(2, 30, 16).to(dtype).requires_grad_()
    out = layer(x, stretch, torch.tensor([[True] * 30, [False] * 25 + [True] * 5]))
    assert out.dtype == dtype
    assert torch.equal(out[0], layer.output.bias.expand(30, 16))
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (x, *layer.parameters()))
    q, k = inside(layer, x)
    with torch.no_grad():  # as measurements ask, who do not want the rounding of half precision
        assert layer.core.visited(q.float(), k.float(), torch.tensor([3, 29])).shape == (2, 2, 2, 30)


def test_autocast_is_close_to_single_precision(make_spec: Spec) -> None:
    layer, x = build(make_spec(), selected_blocks=8).float(), random(1, 30, 16).float()  # all blocks: no choice flips
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x, stretch)
    exact = layer(x, stretch)
    assert (out.float() - exact).norm() < 0.03 * exact.norm()


def test_dropout_acts_in_training_only(make_spec: Spec) -> None:
    layer, x = build(make_spec(), dropout=0.5), random(1, 30, 16)
    assert not torch.equal(layer(x, stretch), layer(x, stretch))
    assert torch.equal(layer.eval()(x, stretch), build(make_spec())(x, stretch))


@pytest.mark.parametrize(("gather_from", "at_once"), [(0, 12000), (16, 10**7)])
def test_compiles_in_one_graph(
    make_spec: Spec, monkeypatch: pytest.MonkeyPatch, gather_from: int, at_once: int
) -> None:
    monkeypatch.setattr(key_blocks, "GATHER_FROM", gather_from)
    monkeypatch.setattr(nsa_core, "SLICE", at_once)
    monkeypatch.setattr(dense, "KEPT", at_once)
    layer, x = build(make_spec()), random(1, 24, 16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    parameters = list(layer.parameters())
    gradients = [torch.autograd.grad(f(x, stretch).square().sum(), parameters) for f in (layer, compiled)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_compressed_key_starts_about_as_large_as_a_key(make_spec: Spec) -> None:
    network = Compression(make_spec(d_model=64, n_heads=1), block=16, stride=8)
    initialise(network, seed=0)
    x = random(1, 1, 4096, 64).float()
    size = network(x, torch.ones(1, 4096, dtype=torch.bool)).std().item()
    assert 0.2 < size < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compress_stride": 0}, "compress_stride must be at least 1, got 0"),
        ({"compress_block": 0}, "compress_block must be at least 1, got 0"),
        ({"compress_block": 5}, "compress_block=5 must be a multiple of compress_stride=2"),
        ({"select_block": 3}, "select_block=3 must be a multiple of compress_stride=2"),
        ({"selected_blocks": 2}, "selected_blocks must be at least 3, got 2"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"dropout_on": "weights"}, "attention.dropout_on=weights: NativeSparseCore never has"),
    ],
)
def test_options_out_of_range(make_spec: Spec, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(make_spec(), **options)
