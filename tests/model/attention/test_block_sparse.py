from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.attention import block_sparse
from ablab.model.attention.block_sparse import BlockSparseAttention
from ablab.model.attention.full import FullAttention
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]


@pytest.fixture
def sparse_at_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also short sequences, which are attended in the dense way otherwise, take the way of the long ones."""
    monkeypatch.setattr(block_sparse, "DENSE_BELOW", 0)
    monkeypatch.setattr(block_sparse, "SLICE", 500)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seen_blocks(core: BlockSparseAttention, row: int, n: int) -> set[int]:
    """Of n blocks those that block `row` sees, as the patterns read."""
    seen = {row - i for i in range(core.local_blocks)}
    if not core.causal:
        seen |= {row + i for i in range(core.local_blocks)}
        if row < core.global_blocks:
            seen |= set(range(n))
    seen |= set(range(core.global_blocks))
    if core.stride:
        seen |= {
            j for j in range(n) if (j % core.stride == core.stride - 1 if core.fixed else (row - j) % core.stride == 0)
        }
    seen |= set(core.random[row].tolist())
    return {j for j in seen if 0 <= j < n and (j <= row or not core.causal)}


def seen_keys(core: BlockSparseAttention, i: int, length: int) -> list[int]:
    blocks = seen_blocks(core, i // core.block, math.ceil(length / core.block))
    return [j for j in range(length) if j // core.block in blocks and (j <= i or not core.causal)]


def by_definition(core: BlockSparseAttention, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
    B, H, T, D = q.shape
    group = H // k.shape[1]
    out = []
    for b in range(B):
        for h in range(H):
            keys, values = k[b, h // group], v[b, h // group]
            for i in range(T):
                seen = [j for j in seen_keys(core, i, T) if padding is None or not padding[b, j]]
                if core.share_qk:
                    seen = [j for j in seen if j != i] or seen
                out.append((keys[seen] @ q[b, h, i] / math.sqrt(D)).softmax(0) @ values[seen])
    return torch.stack(out).view(B, H, T, v.shape[-1])


patterns = st.fixed_dictionaries(
    {
        "block": st.integers(1, 9),
        "local_blocks": st.integers(1, 3),
        "stride": st.sampled_from([None, 0, 1, 2, 5]),
        "fixed": st.booleans(),
        "global_blocks": st.integers(0, 3),
        "random_blocks": st.integers(0, 2),
    }
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    pattern=patterns,
    length=st.integers(1, 40),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2)]),
    causal=st.booleans(),
    share_qk=st.booleans(),
    padded=st.sampled_from([None, 0.3, 1.0]),
    dense_below=st.sampled_from([0, 256]),
    at_once=st.sampled_from([1, 1000, 10**6]),
    precision=st.sampled_from([(torch.float32, 1e-5), (torch.float64, 1e-9)]),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_are_those_of_the_definition(
    make_spec: Spec,
    pattern: dict[str, Any],
    length: int,
    heads: tuple[int, int],
    causal: bool,
    share_qk: bool,
    padded: float | None,
    dense_below: int,
    at_once: int,
    precision: tuple[torch.dtype, float],
    seed: int,
) -> None:
    (H, K), (dtype, tolerance) = heads, precision
    share_qk = share_qk and H == K
    shapes = [(2, H, length, 4), (2, K, length, 4), (2, K, length, 4)]
    inputs = [random(*shape, seed=seed + i, dtype=dtype).requires_grad_() for i, shape in enumerate(shapes)]
    padding = None if padded is None else random(2, length, seed=seed).sigmoid() < padded
    spec = make_spec(n_heads=H, n_kv_heads=K, causal=causal, seed=seed)
    core = BlockSparseAttention(spec, share_qk=share_qk, **pattern)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_sparse, "DENSE_BELOW", dense_below)
        patch.setattr(block_sparse, "SLICE", at_once)
        out = core(*inputs, padding)
        direction = random(*out.shape, seed=seed, dtype=dtype)
        ours = torch.autograd.grad(out, inputs, direction)
    expected = by_definition(core, inputs[0], inputs[1], inputs[2], padding)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    theirs = torch.autograd.grad(expected, inputs, direction, allow_unused=True, materialize_grads=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(pattern=patterns, length=st.integers(1, 40), causal=st.booleans(), share_qk=st.booleans())
def test_visited_is_the_definition(
    make_spec: Spec, pattern: dict[str, Any], length: int, causal: bool, share_qk: bool
) -> None:
    core = BlockSparseAttention(make_spec(causal=causal), share_qk=share_qk, **pattern)
    positions = sorted({0, length // 3, length // 2, length - 1})
    q = random(1, 2, length, 8)
    for i, row in zip(positions, core.visited(q, q, torch.tensor(positions)), strict=True):
        seen = seen_keys(core, i, length)
        assert row.nonzero().flatten().tolist() == ([j for j in seen if j != i] or seen if share_qk else seen)


@pytest.mark.parametrize(
    ("causal", "options", "seen"),
    [
        (True, {"local_blocks": 2, "stride": 0}, {4, 5}),
        (True, {"stride": 2}, {1, 3, 5}),
        (True, {"stride": 3, "fixed": True}, {2, 5}),
        (True, {"stride": 0, "global_blocks": 2}, {0, 1, 5}),
        (False, {"local_blocks": 2, "stride": 0}, {4, 5, 6}),
        (False, {"stride": 2}, {1, 3, 5, 7}),
        (False, {"stride": 3, "fixed": True}, {2, 5}),
    ],
)
def test_what_block_five_of_eight_sees(make_spec: Spec, causal: bool, options: dict[str, Any], seen: set[int]) -> None:
    core = BlockSparseAttention(make_spec(causal=causal), block=4, **options)
    q = random(1, 2, 32, 8)
    keys = core.visited(q, q, torch.tensor([5 * 4 + 3]))[0].nonzero().flatten()
    assert set((keys // 4).tolist()) == seen
    assert len(keys) == 4 * len(seen)


def test_the_stride_left_open_is_the_root_of_the_blocks_whatever_the_length(make_spec: Spec) -> None:
    core = BlockSparseAttention(make_spec(max_length=400), block=4)
    assert core.stride == 10
    inputs = [random(1, 2, 300, 8, seed=seed) for seed in range(3)]
    torch.testing.assert_close(core(*inputs)[:, :, :64], core(*(x[:, :, :64] for x in inputs)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_made_for_longer_sequences_it_keeps_the_pattern_of_those_of_the_training(make_spec: Spec, causal: bool) -> None:
    of_training = BlockSparseAttention(make_spec(max_length=64, causal=causal), block=4, random_blocks=2)
    longer = make_spec(max_length=400, trained_length=64, causal=causal)
    core = BlockSparseAttention(longer, block=4, random_blocks=2)
    inputs = [random(1, 2, 64, 8, seed=seed) for seed in range(3)]
    torch.testing.assert_close(core(*inputs), of_training(*inputs), rtol=0, atol=1e-12)
    beyond = core.random[16:]
    assert beyond.max() > 64  # later blocks may see all that there are by then


def test_random_blocks_are_a_function_of_seed_and_layer_and_evenly_spread(make_spec: Spec) -> None:
    def drawn(**changes: int) -> Tensor:
        return BlockSparseAttention(make_spec(max_length=2000, **changes), block=4, random_blocks=3).random

    assert torch.equal(drawn(), drawn())
    assert not torch.equal(drawn(), drawn(seed=1))
    assert not torch.equal(drawn(), drawn(layer_index=1))
    row = torch.arange(500)[:, None]
    assert (drawn() <= row).all()
    assert ((drawn() + 0.5) / (row + 1)).mean().item() == pytest.approx(0.5, abs=0.03)  # four standard errors
    anywhere = drawn(causal=False)
    assert anywhere.max() > 490
    assert (anywhere + 0.5).mean().item() / 500 == pytest.approx(0.5, abs=0.03)


def test_a_pattern_of_every_block_is_full_attention(make_spec: Spec, sparse_at_any_length: None) -> None:
    for causal in (True, False):
        inputs = [random(2, 2, 50, 8, seed=seed) for seed in range(3)]
        core = BlockSparseAttention(make_spec(causal=causal), block=8, stride=1)
        torch.testing.assert_close(core(*inputs), FullAttention(make_spec(causal=causal))(*inputs))


def test_nothing_depends_on_later_tokens(make_spec: Spec, sparse_at_any_length: None) -> None:
    core = BlockSparseAttention(make_spec(), block=4, local_blocks=2, global_blocks=1, random_blocks=1)
    first = [random(1, 2, 40, 8, seed=seed) for seed in range(3)]
    for place in (1, 10, 39):
        second = [torch.cat([x[:, :, :place], random(1, 2, 40 - place, 8, seed=9)], dim=2) for x in first]
        before, after = core(*first), core(*second)
        torch.testing.assert_close(after[:, :, :place], before[:, :, :place], rtol=0, atol=1e-12)


def test_memory_kept_grows_with_the_length_and_not_with_its_square(make_spec: Spec) -> None:
    def saved(length: int) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        inputs = [random(1, 2, length, 8).requires_grad_() for _ in range(3)]
        core = BlockSparseAttention(make_spec(max_length=4096), block=8, stride=16)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            kept = core(*inputs)
        assert kept.requires_grad
        return sum(storages.values())

    assert saved(4096) <= 9 * saved(512)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sequences_of_padding_alone_give_zero_and_finite_gradients(
    make_spec: Spec, sparse_at_any_length: None, dtype: torch.dtype
) -> None:
    inputs = [random(2, 2, 9, 8, seed=seed, dtype=dtype).requires_grad_() for seed in range(3)]
    padding = torch.tensor([[True] * 9, [True, False] * 4 + [True]])
    out = BlockSparseAttention(make_spec(), block=2)(*inputs, padding)
    assert out.dtype == dtype
    assert not out[0].any()
    out.square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs)


def test_autocast_computes_in_half_precision(make_spec: Spec, sparse_at_any_length: None) -> None:
    inputs = [random(1, 2, 20, 8, seed=seed, dtype=torch.float32) for seed in range(3)]
    core = BlockSparseAttention(make_spec(), block=4)
    with torch.autocast("cpu", torch.bfloat16):
        out = core(*inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), core(*inputs), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("dense_below", [0, 256])
def test_dropped_weights_come_out_the_same_in_the_backward_pass(
    make_spec: Spec, monkeypatch: pytest.MonkeyPatch, dense_below: int
) -> None:
    """The output is linear in the values: with the same weights dropped, its gradient by them is the weights."""
    monkeypatch.setattr(block_sparse, "DENSE_BELOW", dense_below)
    q, k = random(1, 1, 12, 8), random(1, 1, 12, 8, seed=1)
    v = torch.eye(12, dtype=torch.float64).expand(1, 1, 12, 12).clone().requires_grad_()
    core = BlockSparseAttention(make_spec(causal=False), block=3, stride=1, dropout=0.5, dropout_on="weights")
    torch.manual_seed(0)
    weights = core(q, k, v)
    assert 40 < (weights == 0).sum() < 104  # five standard errors about half of 144
    (gradient,) = torch.autograd.grad(weights.sum(), v)
    torch.testing.assert_close(gradient, weights[0, 0].sum(0)[:, None].expand(12, 12)[None, None])


@pytest.mark.parametrize("causal", [True, False])
def test_compiles_in_one_graph(
    make_spec: Spec, sparse_at_any_length: None, monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    monkeypatch.setattr(block_sparse, "SLICE", 2000)  # two blocks at one time: each slice is compiled
    inputs = [random(1, 2, 13, 8, seed=seed).requires_grad_() for seed in range(3)]
    core = BlockSparseAttention(make_spec(causal=causal), block=4, stride=2, global_blocks=1, random_blocks=1)
    torch.compiler.reset()  # of sizes that have been met elsewhere it would make symbols, and take a minute
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(f(*inputs).square().sum(), inputs) for f in (core, compiled)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 0}, "block must be at least 1, got 0"),
        ({"block": 4, "local_blocks": 0}, "local_blocks must be at least 1, got 0"),
        ({"block": 4, "stride": -1}, "stride must be at least 0, got -1"),
        ({"block": 4, "global_blocks": -1}, "global_blocks must be at least 0, got -1"),
        ({"block": 4, "random_blocks": -1}, "random_blocks must be at least 0, got -1"),
    ],
)
def test_options_out_of_range(make_spec: Spec, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockSparseAttention(make_spec(), **options)
