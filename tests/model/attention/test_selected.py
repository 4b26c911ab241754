"""Selected keys against their definition, query by query, and the cells of the option against what they are to be."""

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
from torch.utils.flop_counter import FlopCounterMode

from ablab.model.attention import dense, selected_core
from ablab.model.attention.dsa import DeepSeekSparseAttention
from ablab.model.attention.full import FullAttention
from ablab.model.attention.index_probe import IndexWatcher
from ablab.model.attention.layer import MultiHeadAttention
from ablab.model.attention.nsa import NativeSparseAttention
from ablab.model.attention.selected import SelectedAttention
from ablab.model.attention.selected_core import SelectedCore
from ablab.model.attention.selection import Candidates
from ablab.model.context import unrotated
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]
SIZES: dict[str, Any] = {"granularity": "block", "scorer": "pooled", "keys": 6, "block": 3, "index_heads": 2}
MASKED, GATHERED = 10**9, 0  # what `GATHER_FROM` may be, so that one way is taken at any length


def build(spec: LayerSpec, made: type[Any] = SelectedAttention, **options: Any) -> Any:
    layer = made(spec, **((SIZES if made is SelectedAttention else {}) | options)).double()
    fill(layer)
    return layer


@pytest.fixture(params=[MASKED, GATHERED], ids=["masked", "gathered"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROUTE_FROM", "GATHER_FROM"):
        monkeypatch.setattr(selected_core, name, request.param)


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

    def definition(x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        return by_definition(layer, spec, x, padding, warming=warming)

    check_defined(layer, definition, unrotated, (2, length, spec.d_model), padded, seed)


@settings(max_examples=30, deadline=None, derandomize=True)
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
        patch.setattr(selected_core, "ROUTE_FROM", gather_from)
        patch.setattr(selected_core, "SLICE", at_once)
        patch.setattr(dense, "KEPT", at_once)  # of few scores everything is kept
        check(layer, spec, length=length, padded=padded, seed=seed, warming=warming and scorer == "indexer")


# The cells.


@pytest.mark.parametrize("switches", [{}, {"sinks": True, "softcap": 2.0, "qk_norm": True, "output_gate": "head"}])
@pytest.mark.parametrize("warming", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.usefixtures("either_way")
def test_single_tokens_by_an_indexer_are_deepseek_sparse_attention(
    make_spec: Spec, switches: dict[str, Any], warming: bool, padded: bool
) -> None:
    spec = make_spec(n_heads=4, n_kv_heads=2)
    shared = {"keys": 5, "index_heads": 3, "index_weight": 0.7, "warmup_steps": int(warming)} | switches
    ours = build(spec, granularity="token", scorer="indexer", local_blocks=0, **shared)
    theirs = build(spec, DeepSeekSparseAttention, **shared)
    theirs.load_state_dict(ours.state_dict())
    x, padding = random(2, 40, 16), (torch.arange(40).expand(2, -1) % 7 == 3) if padded else None
    found = []
    for layer in (ours, theirs):
        out = layer(x, unrotated, padding)
        penalty = layer.learning.penalty()
        found.append([out, penalty, *torch.autograd.grad(out.square().sum() + penalty, list(layer.parameters()))])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def mixture_of_block_attention(q: Tensor, k: Tensor, v: Tensor, block: int, top: int) -> Tensor:
    """Lu et al. 2025, section 2.2, with q, k, v (B, H, T, D): s_i = <q, mean of block i>, and of the blocks before the
    query's own the top - 1 of highest score, besides its own up to the query."""
    T, out = q.shape[2], torch.zeros_like(q)
    for t in range(T):
        own = t // block
        means = [k[:, :, i * block : (i + 1) * block].mean(2) for i in range(own)]
        scores = torch.stack([(q[:, :, t] * mean).sum(-1) for mean in means], -1) if means else q.new_zeros(2, 2, 0)
        gates = torch.zeros(*q.shape[:2], T)
        gates[..., own * block : t + 1] = 1
        for i in scores.topk(min(top - 1, own)).indices.unbind(-1):
            within = torch.arange(T) // block == i[..., None]
            gates = torch.maximum(gates, within.to(gates.dtype))
        products = (q[:, :, t, None] @ k.mT).squeeze(2) / math.sqrt(q.shape[-1])
        weights = products.masked_fill(gates == 0, -math.inf).softmax(-1)
        out[:, :, t] = (weights.unsqueeze(2) @ v).squeeze(2)
    return out


@pytest.mark.parametrize(("length", "block", "top"), [(40, 4, 3), (33, 5, 2), (7, 8, 1), (70, 2, 6)])
@pytest.mark.usefixtures("either_way")
def test_blocks_by_pooled_keys_are_mixture_of_block_attention(
    make_spec: Spec, length: int, block: int, top: int
) -> None:
    layer = build(make_spec(), keys=top * block, block=block)
    q, k, v = inputs = [random(2, 2, length, 8, seed=seed).requires_grad_() for seed in range(3)]
    found = [layer.core(q, k, v), mixture_of_block_attention(q, k, v, block, top)]
    gradients = [torch.autograd.grad(out.square().sum(), inputs) for out in found]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def compress_by_means(compression: Any) -> None:
    """gelu(x) - gelu(-x) = x, so that the network for compression can take the mean of a block."""
    size, block = compression.out.weight.shape[0], compression.block
    one = torch.eye(size, dtype=torch.float64)
    with torch.no_grad():
        compression.place.weight.zero_()
        compression.into.weight.copy_(torch.cat([one, -one]).repeat(1, block) / block)
        compression.into.bias.zero_()
        compression.out.weight.copy_(torch.cat([one, -one], 1))


@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
@pytest.mark.usefixtures("either_way")
def test_blocks_by_pooled_keys_are_the_selected_branch_of_native_sparse_attention(
    make_spec: Spec, heads: tuple[int, int], softcap: float | None
) -> None:
    """Whose compression takes means of blocks that lie side by side, and whose keys are those of the other branches."""
    spec = make_spec(d_model=8 * heads[0], n_heads=heads[0], n_kv_heads=heads[1])
    sizes = {"compress_block": 4, "compress_stride": 4, "select_block": 4, "selected_blocks": 5, "window": 3}
    theirs = build(spec, NativeSparseAttention, **sizes, softcap=softcap).core
    compress_by_means(theirs.compress_key)
    ours = build(spec, keys=20, block=4, first_blocks=1, local_blocks=2, softcap=softcap).core
    q, k, v = (random(2, count, 60, 8, seed=seed) for seed, count in enumerate((heads[0], heads[1], heads[1])))
    expected = theirs(*(torch.cat([x, x, x], -1) for x in (q, k, v))).chunk(3, -1)[1]
    torch.testing.assert_close(ours(q, k, v), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scorer", ["pooled", "indexer"])
@pytest.mark.parametrize("granularity", ["block", "token"])
def test_all_keys_make_it_full_attention(make_spec: Spec, granularity: str, scorer: str) -> None:
    spec = make_spec()
    layer = build(spec, keys=63, granularity=granularity, scorer=scorer)
    plain = MultiHeadAttention(spec, core=FullAttention(spec)).double()
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if "indexer" not in name})
    x = random(2, 40, 16)
    torch.testing.assert_close(layer.eval()(x, unrotated), plain(x, unrotated), rtol=1e-12, atol=1e-12)


def test_flops_grow_as_the_length_beside_those_of_the_choice(make_spec: Spec) -> None:
    """Counted without numbers: products with a mean for each block, and with the keys of chosen blocks alone."""
    size, heads, block, count = 8, 2, 4, 3
    for length in (256, 1024):
        layer = build(make_spec(), block=block, keys=count * block).to("meta")
        inputs = [torch.empty(1, heads, length, size, dtype=torch.float64, device="meta") for _ in range(3)]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            layer.core(*inputs)
        blocks = length // block
        choice = 2 * length * blocks * size * heads
        brought = (length * count // block + blocks) * block  # as many queries as blocks have room for
        assert counter.get_total_flops() == choice + 4 * brought * block * size * heads


# What must be found out, and what is measured.


class _PooledWithTheFuture(SelectedCore):
    """The query's own block is scored by its mean, of which a part is still to come, and not always chosen."""

    def _scored(self, *args: Any) -> tuple[Candidates, Tensor]:
        candidates, scores = super()._scored(*args)
        return candidates._replace(always=torch.zeros_like(candidates.always)), scores


class _SeesTheBlockWhole(SelectedCore):
    def _tokens(self, chosen: Tensor, positions: Tensor, there: Tensor, heads: int) -> Tensor:
        return chosen.repeat_interleave(self.selection.block, -1)[..., : there.shape[1]]


@pytest.mark.parametrize("wrong", [_PooledWithTheFuture, _SeesTheBlockWhole])
def test_cores_that_see_the_future_are_found_out(make_spec: Spec, wrong: type[SelectedCore]) -> None:
    layer = build(make_spec())
    check(layer, make_spec(), length=11)
    layer.core.__class__ = wrong
    with pytest.raises(AssertionError):
        check(layer, make_spec(), length=11)


def measured(layer: Any, x: Tensor) -> dict[str, float]:
    watcher = IndexWatcher("attention", 0, layer.core, device=torch.device("cpu"))
    handle = layer.core.register_forward_hook(watcher.hook, with_kwargs=True)
    layer(x, unrotated)
    handle.remove()
    return watcher.metrics()


def test_the_indexer_of_blocks_learns_which_matter(make_spec: Spec) -> None:
    """By its penalty alone; recall and loss, as the mechanism has them, go where they should."""
    layer = build(make_spec(), scorer="indexer", keys=6, block=2, index_heads=4)
    x = random(4, 40, 16)
    before = measured(layer, x)
    optimizer = torch.optim.Adam(layer.indexer.parameters(), 0.02)
    layer.learning.warming = True
    for _ in range(100):
        layer(x, unrotated)
        optimizer.zero_grad()
        layer.learning.penalty().backward()
        optimizer.step()
    after = measured(layer, x)
    assert after["index_loss"] < before["index_loss"] * 0.7
    assert after["index_recall"] > before["index_recall"] + 0.1
    assert 0.2 < before["index_recall_at_random"] < 0.5


def test_recall_is_about_the_blocks_that_are_free_to_choose(make_spec: Spec) -> None:
    layer = build(make_spec(), keys=6, block=2)
    q, k = (random(1, 2, 12, 8, seed=seed) for seed in (0, 1))
    found = layer.core.compared(q, k, torch.arange(12))
    visited = layer.core.visited(q, k, torch.arange(12))
    for t in range(12):
        own, recalls, chances = t // 2, [], []
        for h in range(2):
            weights = (k[0, h, : t + 1] @ q[0, h, t] / math.sqrt(8)).softmax(0)
            mass = [weights[2 * j : 2 * j + 2].sum().item() for j in range(own)]
            best = set(sorted(range(own), key=lambda j: mass[j])[-2:])
            chosen = {j for j in range(own) if visited[0, h, t, 2 * j]}
            recalls.append(len(best & chosen) / len(best) if best else 1.0)
            chances.append(len(chosen) / own if own else 1.0)
        assert found["index_recall"][0, t] == pytest.approx(sum(recalls) / 2)
        assert found["index_recall_at_random"][0, t] == pytest.approx(sum(chances) / 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"granularity": "page"}, "attention.granularity=page: must be block or token"),
        ({"scorer": "random"}, "attention.scorer=random: must be pooled or indexer"),
        ({"keys": 0}, "attention.keys must be at least 1, got 0"),
        ({"block": 0}, "attention.block must be at least 1, got 0"),
        ({"window": -1}, "attention.window must be at least 0, got -1"),
        ({"first_blocks": -1}, "attention.first_blocks must be at least 0, got -1"),
        ({"keys": 7}, "attention.keys=7 must be a multiple of attention.block=3"),
        ({"local_blocks": 0}, "attention.local_blocks must be at least 1 with attention.granularity=block"),
        ({"first_blocks": 2}, "attention.keys=6 are fewer than attention.first_blocks=2 and attention.local_blocks=1"),
        ({"scorer": "indexer", "index_heads": 0}, "attention.index_heads must be at least 1, got 0"),
        ({"scorer": "indexer", "warmup_steps": -1}, "attention.warmup_steps must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range(make_spec: Spec, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(make_spec(), **changes)


def test_more_keys_than_a_sequence_has(make_spec: Spec) -> None:
    layer = build(make_spec(), keys=69, block=3)
    layer.check_length(67)  # 23 blocks, of which the last has a single token
    with pytest.raises(ValueError, match=r"^attention\.keys=69 is more than the 66 tokens of a sequence"):
        layer.check_length(66)
