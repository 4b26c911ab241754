"""Selected keys against their definition, query by query, and the cells of the option against what they are to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.attention import selected_core
from ablab.model.attention.blocks import selected_attention
from ablab.model.attention.dense import highest
from ablab.model.attention.dsa import DeepSeekSparseAttention
from ablab.model.attention.full import FullAttention
from ablab.model.attention.index_probe import IndexWatcher
from ablab.model.attention.indexer import index_scores
from ablab.model.attention.layer import MultiHeadAttention
from ablab.model.attention.nsa import NativeSparseAttention
from ablab.model.attention.selected import SelectedAttention
from ablab.model.attention.selected_core import SelectedCore
from ablab.model.attention.selection import Candidates, Selection
from ablab.model.context import unrotated
from ablab.model.initialisation import initialise
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]
SIZES: dict[str, Any] = {"granularity": "block", "scorer": "pooled", "keys": 6, "block": 3, "index_heads": 2}
MASKED, GATHERED = 10**9, 0  # what `GATHER_FROM` may be, so that one way is taken at any length


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(spec: LayerSpec, made: type[Any] = SelectedAttention, **options: Any) -> Any:
    layer = made(spec, **((SIZES if made is SelectedAttention else {}) | options)).double()
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(random(*parameter.shape, seed=100 + seed) / 2)
    return layer


@pytest.fixture(params=[MASKED, GATHERED], ids=["masked", "gathered"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selected_core, "GATHER_FROM", request.param)


def linear(x: Tensor, layer: Any) -> Tensor:
    y: Tensor = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
    return y


def index_of(indexer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (T, heads, D), their weights (T, heads) and keys (T, D) of an indexer, whose input has no gradient."""
    x, D = x.detach(), indexer.head_size
    k = linear(x, indexer.key)
    centred = k - k.mean(-1, keepdim=True)
    norm = indexer.key_norm
    k = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias
    w = linear(x, indexer.weight)
    return linear(x, indexer.query).view(len(x), -1, D), w / math.sqrt(w.shape[1] * D), k


def by_definition(
    layer: Any, spec: LayerSpec, x: Tensor, padding: Tensor | None, *, warming: bool
) -> tuple[Tensor, Tensor]:
    """Query by query: the output, and what the indexer is to lose."""
    H, K, D, T, core = spec.n_heads, spec.kv_heads, spec.head_size, x.shape[1], layer.core
    size, count, window = core.selection.block, core.selection.count, core.selection.window
    first, local = core.selection.first, core.selection.local
    out, lost = [], []
    for b in range(len(x)):
        q, k, v = (linear(x[b], project).view(T, -1, D) for project in (layer.query, layer.key, layer.value))
        index = None if layer.indexer is None else index_of(layer.indexer, x[b])
        there = [padding is None or not bool(padding[b, t]) for t in range(T)]
        blocks = {j: [s for s in range(j * size, min(T, (j + 1) * size)) if there[s]] for j in range(-(-T // size))}
        blocks = {j: tokens for j, tokens in blocks.items() if tokens}
        rows, losses = [], []
        for t in range(T):
            last = t if spec.causal else T
            near = [
                s for s in range(T + size) if window and (0 <= t - s < window if spec.causal else abs(t - s) <= window)
            ]
            may = [
                j
                for j in blocks
                if any(s not in near for s in range(j * size, (j + 1) * size) if s <= last or not spec.causal)
            ]
            whole = [j for j in may if not spec.causal or (j + 1) * size - 1 <= t]
            mixed, shares = [], torch.zeros(len(blocks), dtype=x.dtype)
            for g in range(K):
                heads = range(g * H // K, (g + 1) * H // K)
                scores = {}
                for j in may:
                    if index is not None:
                        score = (index[1][t] * (index[0][t] @ index[2][blocks[j]].mean(0)).relu()).sum()
                    else:
                        pooled = {
                            i: k[blocks[i], g].mean(0) for i in blocks if not spec.causal or (i + 1) * size - 1 <= t
                        }
                        weights = []
                        for h in heads:
                            of = {i: _bounded(pooled[i] @ q[t, h] / math.sqrt(D), core.softcap).exp() for i in pooled}
                            weights.append(of[j] / sum(of.values()) if j in of else torch.zeros(()))
                        score = torch.stack(weights).sum()
                    always = j < first or abs(j - t // size) < local
                    scores[j] = math.inf if always else score.item()
                chosen = may if warming else sorted(may, key=lambda j: (scores[j], j))[-count:]
                seen = [
                    s for s in range(T) if there[s] and s <= last and (s in near or any(s in blocks[j] for j in chosen))
                ]
                for h in heads:
                    exps = _bounded(k[seen, g] @ q[t, h] / math.sqrt(D), core.softcap).exp()
                    total = exps.sum() + (0 if core.sinks is None else core.sinks[h].exp())
                    mixed.append(exps / total @ v[seen, g] if seen else torch.zeros(D, dtype=x.dtype))
                    for place, j in enumerate(blocks):
                        outside = [n for n, s in enumerate(seen) if s in blocks[j] and s not in near]
                        if j in chosen and j in whole:
                            shares[place] = shares[place] + (exps[outside].sum() / total).detach()
            rows.append(torch.cat(mixed))
            if there[t] and index is not None:
                learned = [place for place, j in enumerate(blocks) if j in chosen and j in whole]
                own = [
                    (index[1][t] * (index[0][t] @ index[2][blocks[j]].mean(0)).relu()).sum()
                    for place, j in enumerate(blocks)
                    if place in learned
                ]
                losses.append(x.new_zeros(()))
                if learned:
                    p, log_q = shares[learned] / shares[learned].sum(), torch.stack(own).log_softmax(0)
                    losses[-1] = (p * (p.log() - log_q)).sum()
        out.append(linear(torch.stack(rows), layer.output))
        lost.append(torch.stack(losses).mean() if losses else x.new_zeros(()))
    weight = 0.0 if layer.learning is None else layer.learning.weight
    return torch.stack(out), weight * torch.stack(lost).mean()


def _bounded(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else softcap * (scores / softcap).tanh()


def check(
    layer: Any, spec: LayerSpec, *, length: int, padded: float | None = None, seed: int = 0, warming: bool = False
) -> None:
    """Outputs, penalty and gradients of both are those of the definition."""
    x = random(2, length, spec.d_model, seed=seed).requires_grad_()
    padding = None if padded is None else random(2, length, seed=seed).sigmoid() < padded
    inputs = [x, *layer.parameters()]
    out = layer(x, unrotated, padding)
    penalty = out.new_zeros(()) if layer.learning is None else layer.learning.penalty()
    expected, lost = by_definition(layer, spec, x, padding, warming=warming)
    there = 1.0 if padding is None else (~padding)[..., None].double()
    torch.testing.assert_close((out * there, penalty), (expected * there, lost), rtol=1e-9, atol=1e-9)
    direction = random(*out.shape, seed=seed) * there
    totals = [(direction * each).sum() + more for each, more in ((out, penalty), (expected, lost))]
    found = [torch.autograd.grad(each, inputs, allow_unused=True, materialize_grads=True) for each in totals]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 14),
    heads=st.sampled_from([(2, 2), (4, 2)]),
    granularity=st.sampled_from(["block", "token"]),
    scorer=st.sampled_from(["pooled", "indexer"]),
    block=st.integers(1, 4),
    extra=st.integers(0, 2),
    first=st.integers(0, 1),
    local=st.integers(0, 2),
    window=st.sampled_from([0, 0, 1, 3, 5]),
    switches=st.sampled_from([{}, {"sinks": True, "softcap": 2.0}]),
    causal=st.booleans(),
    padded=st.sampled_from([None, 0.3]),
    warming=st.booleans(),
    gather_from=st.sampled_from([MASKED, GATHERED]),
    at_once=st.sampled_from([1, 400, 10**6]),
    seed=st.integers(0, 1000),
)
def test_outputs_penalty_and_gradients_are_those_of_the_definition(
    make_spec: Spec, length: int, heads: tuple[int, int], granularity: str, scorer: str, block: int, extra: int,
    first: int, local: int, window: int, switches: dict[str, Any], causal: bool, padded: float | None, warming: bool,
    gather_from: int, at_once: int, seed: int,
) -> None:  # fmt: skip
    spec = make_spec(n_heads=heads[0], n_kv_heads=heads[1], causal=causal)
    size = block if granularity == "block" else 1
    local = max(local, int(size > 1))
    keys = size * max(1, first + (local if causal else 2 * local) + extra)
    layer = build(
        spec, granularity=granularity, scorer=scorer, keys=keys, block=block, first_blocks=first, local_blocks=local,
        window=window, warmup_steps=int(warming), index_weight=0.7, **switches,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selected_core, "GATHER_FROM", gather_from)
        patch.setattr(selected_core, "SLICE", at_once)
        check(layer, spec, length=length, padded=padded, seed=seed, warming=warming and scorer == "indexer")
