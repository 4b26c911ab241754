from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from equations import check_defined, fill, linear, random, rotated
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ablab.model.attention import dense, selected_core
from ablab.model.attention.dsa import DeepSeekSparseAttention, IndexedAttention
from ablab.model.attention.full import FullAttention
from ablab.model.attention.index_probe import IndexWatcher
from ablab.model.attention.indexer import Index, LightningIndexer, index_scores, unchosen
from ablab.model.attention.layer import MultiHeadAttention, Rotate
from ablab.model.attention.selection import Candidates
from ablab.model.context import unrotated
from ablab.model.position import Rope
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]
BASE = 100.0
SIZES: dict[str, Any] = {"keys": 3, "index_heads": 2, "index_weight": 0.7}


def rope(spec: LayerSpec, share: float = 1.0) -> Rotate:
    torch.set_default_dtype(torch.float64)
    try:
        return Rope(spec, base=BASE, share=share).rotate
    finally:
        torch.set_default_dtype(torch.float32)


def build(spec: LayerSpec, made: type[DeepSeekSparseAttention] = DeepSeekSparseAttention, **options: Any) -> Any:
    layer = made(spec, **(SIZES | options)).double()
    fill(layer)
    return layer


def _turned(x: Tensor, share: float) -> Tensor:
    turned: Tensor = rotated(x, size=round(share * x.shape[1]), base=BASE)
    return turned


def normalised(x: Tensor, norm: Any) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled: Tensor = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias
    return scaled


def index_of(indexer: Any, x: Tensor, share: float) -> Tensor:
    """Equation 1: I(t, s) for x (T, d), pair by pair."""
    x, D = x.detach(), indexer.head_size
    k = _turned(normalised(linear(x, indexer.key), indexer.key_norm), share)
    w, q = linear(x, indexer.weight), linear(x, indexer.query)
    H = w.shape[1]
    total = torch.zeros(len(x), len(x), dtype=x.dtype)
    for h in range(H):
        own = _turned(q[:, h * D : (h + 1) * D], share)
        total = total + w[:, h, None] * torch.stack([(k @ row).relu() for row in own])
    return total / math.sqrt(H * D)


def by_definition(
    layer: Any, spec: LayerSpec, x: Tensor, padding: Tensor | None, share: float, *, warming: bool
) -> tuple[Tensor, Tensor]:
    """Section 2.1, query by query: the output, and what the indexer is to lose."""
    H, K, D, T = spec.n_heads, spec.kv_heads, spec.head_size, x.shape[1]
    core, out, lost = layer.core, [], []
    for b in range(len(x)):
        q, k, v = (linear(x[b], project).view(T, -1, D) for project in (layer.query, layer.key, layer.value))
        q, k = (torch.stack([_turned(each[:, h], share) for h in range(each.shape[1])], 1) for each in (q, k))
        index = index_of(layer.indexer, x[b], share)
        rows, losses = [], []
        for t in range(T):
            seen = [s for s in range(t + 1 if spec.causal else T) if padding is None or not padding[b, s]]
            if not warming:
                seen = sorted(seen, key=lambda s: (index[t, s].item(), s))[-core.keys :]
            mixed, shares = [], torch.zeros(len(seen), dtype=x.dtype)
            for h in range(H):
                scores = k[seen, h * K // H] @ q[t, h] / math.sqrt(D)
                if core.softcap is not None:
                    scores = core.softcap * (scores / core.softcap).tanh()
                total = scores.exp().sum() + (0 if core.sinks is None else core.sinks[h].exp())
                mixed.append(scores.exp() / total @ v[seen, h * K // H])
                shares = shares + (scores.exp() / total).detach()
            rows.append(torch.cat(mixed))
            if padding is None or not padding[b, t]:
                p, own = shares / shares.sum(), index[t, seen].softmax(0)
                losses.append((p * (p.log() - own.log())).sum())
        out.append(linear(torch.stack(rows), layer.output))
        lost.append(torch.stack(losses).mean() if losses else x.new_zeros(()))
    return torch.stack(out), core.learning.weight * torch.stack(lost).mean()


def check(
    layer: Any, spec: LayerSpec, *, length: int, share: float = 1.0, padded: float | None = None, seed: int = 0,
    warming: bool = False,
) -> None:  # fmt: skip

    def definition(x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        return by_definition(layer, spec, x, padding, share, warming=warming)

    check_defined(layer, definition, rope(spec, share), (2, length, spec.d_model), padded, seed)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 12),
    heads=st.sampled_from([(2, 2), (4, 2), (4, 1)]),
    options=st.fixed_dictionaries(
        {
            "keys": st.integers(1, 14),
            "index_heads": st.integers(1, 3),
            "sinks": st.booleans(),
            "softcap": st.sampled_from([None, 2.0]),
        }
    ),
    causal=st.booleans(),
    bias=st.booleans(),
    share=st.sampled_from([1.0, 0.5]),
    padded=st.sampled_from([None, 0.3, 1.0]),
    warming=st.booleans(),
    at_once=st.sampled_from([1, 60, 10**6]),
    gather_from=st.sampled_from([0, 10**9]),
    seed=st.integers(0, 1000),
)
def test_outputs_penalty_and_gradients_are_those_of_the_definition(
    make_spec: Spec, length: int, heads: tuple[int, int], options: dict[str, Any], causal: bool, bias: bool,
    share: float, padded: float | None, warming: bool, at_once: int,
    gather_from: int, seed: int,
) -> None:  # fmt: skip
    spec = make_spec(n_heads=heads[0], n_kv_heads=heads[1], causal=causal, bias=bias)
    layer = build(spec, **options, warmup_steps=int(warming))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selected_core, "SLICE", at_once)
        patch.setattr(dense, "KEPT", at_once)  # of few scores everything is kept
        patch.setattr(selected_core, "GATHER_FROM", gather_from)
        check(layer, spec, length=length, share=share, padded=padded, seed=seed, warming=warming)


@pytest.mark.parametrize("switches", [{}, {"sinks": True}, {"softcap": 2.0}, {"dropout_on": "weights", "dropout": 0.5}])
def test_evaluation_gives_what_training_gives(make_spec: Spec, switches: dict[str, Any]) -> None:
    layer, x = build(make_spec(n_heads=4, n_kv_heads=2), **switches), random(2, 20, 16)
    padding = torch.arange(20).expand(2, -1) < 3
    with torch.no_grad():
        evaluated = layer.eval()(x, unrotated, padding)
    assert layer.core.learning.penalty() == 0
    layer.core.dropout = 0.0
    torch.testing.assert_close(layer.train()(x, unrotated, padding), evaluated, rtol=1e-12, atol=1e-12)


class _Unlearned(LightningIndexer):
    @torch.no_grad()
    def forward(self, x: Tensor, rotate: Rotate, queries: Tensor | None = None) -> Index:
        return super().forward(x, rotate, queries)


class _Unrotated(LightningIndexer):
    def forward(self, x: Tensor, rotate: Rotate, queries: Tensor | None = None) -> Index:
        return super().forward(x, unrotated, queries)


class _Interleaved(LightningIndexer):
    """Rotates pairs of neighbours, where the attention rotates coordinates half a head apart."""

    def forward(self, x: Tensor, rotate: Rotate, queries: Tensor | None = None) -> Index:
        def other(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            q, k = rotate(*(torch.cat([each[..., ::2], each[..., 1::2]], -1) for each in (q, k)))
            return q, k

        return super().forward(x, other, queries)


class _Attached(LightningIndexer):
    """Its loss reaches the layers before it."""

    def forward(self, x: Tensor, rotate: Rotate, queries: Tensor | None = None) -> Index:
        q, _, k = super().forward(x, rotate, queries)
        return q, self.scale * self.weight(x).transpose(1, 2), k


class _SeesTheFuture(IndexedAttention):
    """Chooses among all keys, and hides the future only afterwards."""

    def _scored(self, *args: Tensor) -> tuple[Candidates, Tensor]:
        candidates, scores = super()._scored(*args)
        return candidates._replace(allowed=torch.ones_like(scores, dtype=torch.bool)), scores

    def _tokens(self, chosen: Tensor, positions: Tensor, there: Tensor, heads: int) -> Tensor:
        return chosen & (torch.arange(there.shape[1]) <= positions[:, None])


@pytest.mark.parametrize("wrong", [_Unlearned, _Unrotated, _Interleaved, _Attached])
def test_wrong_indexers_are_found_out(make_spec: Spec, wrong: type[nn.Module]) -> None:
    spec = make_spec()
    layer = build(spec)
    check(layer, spec, length=12)
    layer.indexer.__class__ = wrong
    with pytest.raises(AssertionError):
        check(layer, spec, length=12)


def test_a_choice_among_the_future_is_found_out(make_spec: Spec) -> None:
    spec = make_spec()
    layer = build(spec)
    layer.core.__class__ = _SeesTheFuture
    with pytest.raises(AssertionError):
        check(layer, spec, length=12)
    layer.core.selection = replace(layer.core.selection, count=12)  # where all are chosen, its slices are right
    check(layer, spec, length=12)


def test_the_penalty_moves_the_indexer_alone_and_the_task_all_else(make_spec: Spec) -> None:
    layer = build(make_spec(), output_gate="head", sinks=True, qk_norm=True)
    x = random(2, 12, 16).requires_grad_()
    out = layer(x, unrotated)
    indexed = {name for name, _ in layer.named_parameters() if name.startswith("indexer.")}
    for total, moved in (
        (layer.core.learning.penalty(), indexed),
        (out.square().sum(), {name for name, _ in layer.named_parameters()} - indexed - {"key.bias"}),
    ):
        layer.zero_grad()
        (through,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True, materialize_grads=True)
        total.backward(retain_graph=True)
        assert bool(through.any()) == (moved is not indexed)
        given = {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-12}
        assert given - {"key.bias"} == moved


def test_all_keys_make_it_full_attention(make_spec: Spec) -> None:
    spec = make_spec()
    layer, plain = build(spec, keys=64), MultiHeadAttention(spec, core=FullAttention(spec)).double()
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if "indexer" not in name})
    x = random(2, 20, 16)
    torch.testing.assert_close(layer.eval()(x, rope(spec)), plain(x, rope(spec)), rtol=1e-12, atol=1e-12)


def test_warm_up_is_a_function_of_the_step_and_of_training_alone(make_spec: Spec) -> None:
    layer, x = build(make_spec(), warmup_steps=3), random(1, 12, 16)

    def at(step: int) -> Tensor:
        layer.core.learning.resample(step)
        out: Tensor = layer(x, unrotated)
        return out

    first, last, after = at(0), at(2), at(3)
    assert torch.equal(first, last)
    assert not torch.allclose(last, after)
    torch.testing.assert_close(layer.eval()(x, unrotated), after, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(at(0), after, rtol=1e-12, atol=1e-12)


def test_the_indexer_learns_which_keys_matter(make_spec: Spec) -> None:
    """By its penalty alone; recall and loss, as the mechanism has them, go where they should."""
    layer, x = build(make_spec(), keys=4, index_heads=4), random(4, 40, 16)
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)

    def measured() -> dict[str, float]:
        watcher = IndexWatcher("attention", 0, layer.core, device=torch.device("cpu"))
        handle = layer.core.register_forward_hook(watcher.hook, with_kwargs=True)
        layer(x, unrotated)
        handle.remove()
        return watcher.metrics()

    before = measured()
    for _ in range(60):
        layer(x, unrotated)
        optimizer.zero_grad()
        layer.core.learning.penalty().backward()
        optimizer.step()
    after = measured()
    assert after["index_loss"] < before["index_loss"] / 2
    layer.core.learning.warming = True
    for _ in range(150):
        layer(x, unrotated)
        optimizer.zero_grad()
        layer.core.learning.penalty().backward()
        optimizer.step()
    assert measured()["index_recall"] > before["index_recall"] + 0.1
    assert 0.2 < before["index_recall_at_random"] < 0.4  # 4 of 1 to 40 keys


def test_a_training_that_ends_before_an_indexer_chooses_is_noted(make_spec: Spec) -> None:
    layers = nn.ModuleList(build(make_spec(), warmup_steps=steps) for steps in (0, 5, 9, 9))
    assert unchosen(layers, 10) == []
    [line] = unchosen(layers, 9)
    assert line.startswith("attention.warmup_steps=9: in training, which had 9 steps,")
    assert len(unchosen(layers, 1)) == 2
    assert unchosen(nn.ModuleList([FullAttention(make_spec())]), 1) == []


def test_recall_is_the_share_of_the_best_keys_that_are_chosen(make_spec: Spec) -> None:
    spec = make_spec()
    layer, x = build(spec), random(1, 12, 16)
    given: list[Tensor] = []
    layer.core.register_forward_hook(
        lambda core, args, kwargs, out: given.extend([*args[:2], *kwargs["index"]]), with_kwargs=True
    )
    layer.eval()(x, unrotated)
    q, k, *index = given
    found = layer.core.compared(q, k, torch.arange(12), *index)
    recall, chance = found["index_recall"], found["index_recall_at_random"]
    chosen = layer.core.visited(q, k, torch.arange(12), *index)[0, 0]
    for t in range(12):
        weights = sum((k[0, h, : t + 1] @ q[0, h, t] / math.sqrt(8)).softmax(0) for h in range(2))
        best = set(torch.as_tensor(weights).argsort()[-3:].tolist())
        own = set(chosen[t].nonzero().flatten().tolist())
        assert recall[0, t] == pytest.approx(len(best & own) / len(best))
        assert chance[0, t] == pytest.approx(min(3, t + 1) / (t + 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": 0}, "attention.keys must be at least 1, got 0"),
        ({"index_heads": 0}, "attention.index_heads must be at least 1, got 0"),
        ({"warmup_steps": -1}, "attention.warmup_steps must be at least 0, got -1"),
        ({"index_weight": 0.0}, "attention.index_weight must be above 0, or the indexer never learns, got 0.0"),
    ],
)
def test_settings_out_of_range(make_spec: Spec, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(make_spec(), **changes)


@pytest.mark.parametrize("length", [1, 7, 40])
def test_the_indexer_is_that_of_transformers(make_spec: Spec, length: int) -> None:
    """Chosen keys, with the same weights: DeepSeek-V3.2's indexer, which runs without gradient."""
    package = pytest.importorskip("transformers.models.deepseek_v32", reason="the extra `bench` is not installed")
    modelling = pytest.importorskip("transformers.models.deepseek_v32.modeling_deepseek_v32")
    spec = make_spec(d_model=32, n_heads=2)  # heads of 16, half of each rotated
    config = package.DeepseekV32Config(
        hidden_size=32, q_lora_rank=32, index_n_heads=3, index_head_dim=16, index_topk=5, qk_rope_head_dim=8
    )
    theirs = modelling.DeepseekV32Indexer(config, 0).double()
    ours = LightningIndexer(spec, heads=3).double()
    names = {"query": "wq_b", "key": "wk", "key_norm": "k_norm", "weight": "weights_proj"}
    with torch.no_grad():
        for seed, (mine, other) in enumerate(names.items()):
            for name, parameter in getattr(theirs, other).named_parameters():
                parameter.copy_(random(*parameter.shape, seed=seed))
                getattr(getattr(ours, mine), name).copy_(parameter)
    x = random(2, length, 32)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * BASE ** (-torch.arange(0, 8, 2).double() / 8)
    turn = torch.cat([angle, angle], -1)[None]
    hidden = torch.full((length, length), -math.inf, dtype=torch.float64).triu(1)
    found = theirs(x, x, (turn.cos(), turn.sin()), hidden.expand(2, -1, -1), torch.arange(length)[None])
    core = IndexedAttention(spec, keys=5, index_weight=1.0, warmup_steps=0)
    q = random(2, 2, length, 16)
    index = ours(x, rope(spec, 0.5))
    chosen = core.visited(q, q, torch.arange(length), *index)[:, 0]
    expected = torch.zeros(2, length, length, dtype=torch.bool).scatter(-1, found.long(), True) & (hidden == 0)
    scores = index_scores(*index)  # of which several are 0, and either may take any of these
    picked = [scores.masked_fill(~each, math.inf).sort(-1).values for each in (chosen, expected)]
    torch.testing.assert_close(*picked, rtol=1e-9, atol=1e-9)
    assert length == 1 or (scores[chosen] != 0).double().mean() > 0.7
