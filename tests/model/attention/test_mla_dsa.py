"""Latent attention to the keys that an indexer picks: by its definition, and beside DeepSeek-V3.2's own layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from equations import check_defined, fill, latent, linear, random, rotated
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.attention import dense, selected_core
from ablab.model.attention.indexer import Index, LightningIndexer
from ablab.model.attention.layer import Rotate
from ablab.model.attention.mla import LatentAttention
from ablab.model.attention.mla_dsa import LatentSparseAttention
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]
BASE, ROPE = 100.0, 4
SIZES: dict[str, Any] = {"keys": 3, "index_heads": 3, "index_weight": 0.7, "rope_size": ROPE, "rope_base": BASE}


def untouched(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("the model's rotation is not for this layer")


def build(spec: LayerSpec, **options: Any) -> Any:
    torch.set_default_dtype(torch.float64)  # for the tables of the rotation
    try:
        layer = LatentSparseAttention(spec, **(SIZES | options))
    finally:
        torch.set_default_dtype(torch.float32)
    fill(layer)
    return layer


def _turned(x: Tensor) -> Tensor:
    turned: Tensor = rotated(x, size=ROPE, base=BASE)
    return turned


def index_of(indexer: Any, x: Tensor, queries: Tensor) -> Tensor:
    """Equation 1, head by head: I(t, s) for x (T, d)."""
    x, queries, size = x.detach(), queries.detach(), indexer.head_size
    k = linear(x, indexer.key)
    k = (k - k.mean(-1, keepdim=True)) / (k.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    k = _turned(k * indexer.key_norm.weight + indexer.key_norm.bias)
    w, q = linear(x, indexer.weight), linear(queries, indexer.query)
    total = torch.zeros(len(x), len(x), dtype=x.dtype)
    for h in range(w.shape[1]):
        own = _turned(q[:, h * size : (h + 1) * size])
        total = total + w[:, h, None] * (own @ k.T).relu()
    return total / math.sqrt(w.shape[1] * size)


def by_definition(
    layer: Any, spec: LayerSpec, x: Tensor, padding: Tensor | None, *, warming: bool
) -> tuple[Tensor, Tensor]:
    """Query by query: the output, and what the indexer is to lose."""
    H, D, T, out, lost = spec.n_heads, spec.head_size, x.shape[1], [], []
    for b in range(len(x)):
        queries = x[b] if isinstance(layer.query_latent, torch.nn.Identity) else latent(x[b], layer.query_latent)
        q, compressed = linear(queries, layer.query).view(T, H, -1), latent(x[b], layer.latent)
        k, v = (linear(compressed, project).view(T, H, D) for project in (layer.key, layer.value))
        shared = _turned(linear(x[b], layer.rotated_key))
        index, rows, losses = index_of(layer.indexer, x[b], queries), [], []
        for t in range(T):
            seen = [s for s in range(t + 1 if spec.causal else T) if padding is None or not padding[b, s]]
            if not warming:
                seen = sorted(seen, key=lambda s: (index[t, s].item(), s))[-layer.core.keys :]
            mixed, shares = [], torch.zeros(len(seen), dtype=x.dtype)
            for h in range(H):
                turned = _turned(q[:, h, D:])[t]
                weights = ((k[seen, h] @ q[t, h, :D] + shared[seen] @ turned) / math.sqrt(D + ROPE)).softmax(0)
                mixed.append(weights @ v[seen, h])
                shares = shares + weights.detach()
            rows.append(torch.cat(mixed))
            if padding is None or not padding[b, t]:
                p = shares / shares.sum()
                losses.append((p * (p.log() - index[t, seen].log_softmax(0))).sum())
        out.append(linear(torch.stack(rows), layer.output))
        lost.append(torch.stack(losses).mean() if losses else x.new_zeros(()))
    return torch.stack(out), layer.core.learning.weight * torch.stack(lost).mean()


def check(
    layer: Any, spec: LayerSpec, *, length: int, padded: float | None = None, seed: int = 0, warming: bool = False
) -> None:

    def definition(x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        return by_definition(layer, spec, x, padding, warming=warming)

    check_defined(layer, definition, untouched, (2, length, spec.d_model), padded, seed)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 11),
    options=st.fixed_dictionaries(
        {
            "keys": st.integers(1, 12),
            "q_rank": st.sampled_from([None, 6]),
            "kv_rank": st.sampled_from([None, 5]),
            "index_size": st.sampled_from([None, 4, 6]),
        }
    ),
    causal=st.booleans(),
    bias=st.booleans(),
    padded=st.sampled_from([None, 0.3, 1.0]),
    warming=st.booleans(),
    at_once=st.sampled_from([1, 60, 10**6]),
    seed=st.integers(0, 1000),
)
def test_outputs_penalty_and_gradients_are_those_of_the_definition(
    make_spec: Spec, length: int, options: dict[str, Any], causal: bool, bias: bool, padded: float | None,
    warming: bool, at_once: int, seed: int,
) -> None:  # fmt: skip
    spec = make_spec(causal=causal, bias=bias)
    layer = build(spec, **options, warmup_steps=int(warming))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selected_core, "SLICE", at_once)
        patch.setattr(dense, "KEPT", at_once)  # of few scores everything is kept
        check(layer, spec, length=length, padded=padded, seed=seed, warming=warming)


class _Unlearned(LightningIndexer):
    @torch.no_grad()
    def forward(self, x: Tensor, rotate: Rotate, queries: Tensor | None = None) -> Index:
        return super().forward(x, rotate, queries)


class _Unrotated(LightningIndexer):
    def forward(self, x: Tensor, rotate: Rotate, queries: Tensor | None = None) -> Index:
        return super().forward(x, lambda q, k: (q, k), queries)


class _Interleaved(LightningIndexer):
    """Rotates pairs of neighbours, as the released model's attention does and its indexer does not."""

    def forward(self, x: Tensor, rotate: Rotate, queries: Tensor | None = None) -> Index:
        def other(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            order = [0, 2, 1, 3, *range(ROPE, q.shape[-1])]
            return rotate(q[..., order], k[..., order])

        return super().forward(x, other, queries)


class _OfTheInput(LightningIndexer):
    """Asks by keys of the latent, whose gradient it passes on."""

    def forward(self, x: Tensor, rotate: Rotate, queries: Tensor | None = None) -> Index:
        q, _, k = super().forward(x, rotate, queries)
        return q, self.scale * self.weight(x).transpose(1, 2), k


@pytest.mark.parametrize("wrong", [_Unlearned, _Unrotated, _Interleaved, _OfTheInput])
def test_wrong_indexers_are_found_out(make_spec: Spec, wrong: type[LightningIndexer]) -> None:
    spec = make_spec()
    layer = build(spec, q_rank=6)
    check(layer, spec, length=10)
    layer.indexer.__class__ = wrong
    with pytest.raises((AssertionError, RuntimeError)):
        check(layer, spec, length=10)


def test_with_room_for_all_keys_it_is_latent_attention(make_spec: Spec) -> None:
    layer, x = build(make_spec(), keys=12, q_rank=6), random(2, 12, 16)
    torch.set_default_dtype(torch.float64)
    try:
        other = LatentAttention(make_spec(), q_rank=6, rope_size=ROPE, rope_base=BASE)
    finally:
        torch.set_default_dtype(torch.float32)
    own = {name: value for name, value in layer.state_dict().items() if not name.startswith("indexer.")}
    other.load_state_dict(own)
    torch.testing.assert_close(layer.eval()(x, untouched), other(x, untouched), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": 0}, "attention.keys must be at least 1, got 0"),
        ({"index_heads": 0}, "attention.index_heads must be at least 1, got 0"),
        ({"index_size": 2}, "attention.index_size=2: must be at least the 4 rotated coordinates"),
        ({"index_weight": 0.0}, "attention.index_weight must be above 0"),
        ({"rope_size": 3}, "rope_size must be even, got 3"),
        ({"qk_norm": True}, "attention.qk_norm=true: latent attention normalises the latents"),
    ],
)
def test_settings_out_of_range(make_spec: Spec, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(make_spec(), **changes)
