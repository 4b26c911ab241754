from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.attention import dense, topk
from ablab.model.attention.full import FullAttention
from ablab.model.attention.topk import TopKAttention
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, *, count: int, causal: bool, share_qk: bool
) -> Tensor:
    B, H, T, D = q.shape
    group = H // k.shape[1]
    out = []
    for b in range(B):
        for h in range(H):
            keys, values = k[b, h // group], v[b, h // group]
            for i in range(T):
                scores = keys @ q[b, h, i] / math.sqrt(D)
                seen = [j for j in range(i + 1 if causal else T) if padding is None or not padding[b, j]]
                if share_qk:
                    seen = [j for j in seen if j != i] or seen
                seen = sorted(seen, key=lambda j: (scores[j].item(), j))[-count:]
                out.append(scores[seen].softmax(0) @ values[seen])
    return torch.stack(out).view(B, H, T, v.shape[-1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 14),
    count=st.integers(1, 9),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2)]),
    causal=st.booleans(),
    share_qk=st.booleans(),
    padded=st.sampled_from([None, 0.3, 1.0]),
    at_once=st.sampled_from([1, 60, 10**6]),
    precision=st.sampled_from([(torch.float32, 1e-5), (torch.float64, 1e-9)]),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_are_those_of_the_definition(
    make_spec: Spec,
    length: int,
    count: int,
    heads: tuple[int, int],
    causal: bool,
    share_qk: bool,
    padded: float | None,
    at_once: int,
    precision: tuple[torch.dtype, float],
    seed: int,
) -> None:
    (H, K), (dtype, tolerance) = heads, precision
    share_qk = share_qk and H == K
    shapes = [(2, H, length, 4), (2, K, length, 4), (2, K, length, 3)]
    inputs = [random(*shape, seed=seed + i, dtype=dtype).requires_grad_() for i, shape in enumerate(shapes)]
    padding = None if padded is None else random(2, length, seed=seed).sigmoid() < padded
    core = TopKAttention(make_spec(n_heads=H, n_kv_heads=K, causal=causal), keys=count, share_qk=share_qk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "SLICE", at_once)
        patch.setattr(dense, "KEPT", at_once)  # of few scores everything is kept
        out = core(*inputs, padding)
        direction = random(*out.shape, seed=seed, dtype=dtype)
        ours = torch.autograd.grad(out, inputs, direction)
    expected = by_definition(inputs[0], inputs[1], inputs[2], padding, count=count, causal=causal, share_qk=share_qk)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    theirs = torch.autograd.grad(expected, inputs, direction, allow_unused=True, materialize_grads=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("causal", [True, False])
def test_of_equal_scores_the_later_keys_are_taken(make_spec: Spec, causal: bool) -> None:
    q, k = torch.zeros(1, 1, 6, 4), random(1, 1, 6, 4, dtype=torch.float32)
    visited = TopKAttention(make_spec(causal=causal), keys=2).visited(q, k, torch.arange(6))[0, 0]
    seen = [row.nonzero().flatten().tolist() for row in visited]
    assert seen == ([[0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5]] if causal else [[4, 5]] * 6)


def test_visited_are_the_keys_of_most_of_the_mass(make_spec: Spec) -> None:
    """No other choice of as many keys holds as much of the softmax."""
    q, k = random(1, 2, 30, 8), random(1, 2, 30, 8, seed=1)
    positions = torch.tensor([0, 3, 17, 29])
    visited = TopKAttention(make_spec(), keys=5).visited(q, k, positions)
    assert visited.sum(-1).tolist() == [[[1, 4, 5, 5]] * 2]
    full = FullAttention(make_spec()).weights(q, k, positions)
    torch.testing.assert_close((full * visited).sum(-1), full.topk(5).values.sum(-1))


@pytest.mark.parametrize("keys", [64, 100])
def test_as_many_keys_as_there_are_is_full_attention(make_spec: Spec, keys: int) -> None:
    inputs = [random(2, 2, 64, 8, seed=seed) for seed in range(3)]
    torch.testing.assert_close(TopKAttention(make_spec(), keys=keys)(*inputs), FullAttention(make_spec())(*inputs))


def test_a_choice_does_not_depend_on_later_tokens(make_spec: Spec) -> None:
    core = TopKAttention(make_spec(), keys=3)
    first = [random(1, 2, 20, 8, seed=seed) for seed in range(3)]
    for place in (1, 11, 19):
        second = [torch.cat([x[:, :, :place], random(1, 2, 20 - place, 8, seed=9)], dim=2) for x in first]
        before, after = core(*first), core(*second)
        torch.testing.assert_close(after[:, :, :place], before[:, :, :place], rtol=0, atol=1e-12)


def test_memory_kept_grows_with_the_length_and_not_with_its_square(
    make_spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topk, "SLICE", 2**14)

    def saved(length: int) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        inputs = [random(1, 2, length, 8).requires_grad_() for _ in range(3)]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            kept = TopKAttention(make_spec(), keys=8)(*inputs)
        assert kept.requires_grad
        return sum(storages.values())

    assert saved(1024) <= 4.4 * saved(256)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sequences_of_padding_alone_give_zero_and_finite_gradients(make_spec: Spec, dtype: torch.dtype) -> None:
    inputs = [random(2, 2, 9, 8, seed=seed, dtype=dtype).requires_grad_() for seed in range(3)]
    padding = torch.tensor([[True] * 9, [True, False] * 4 + [True]])
    out = TopKAttention(make_spec(), keys=2)(*inputs, padding)
    assert out.dtype == dtype
    assert not out[0].any()
    out.square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs)


def test_half_precision_and_autocast_choose_the_same_keys_as_single(make_spec: Spec) -> None:
    core = TopKAttention(make_spec(), keys=8)
    inputs = [random(1, 2, 400, 8, seed=seed, dtype=torch.bfloat16) for seed in range(3)]
    exact = core(*(x.float() for x in inputs))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(core(*inputs).float(), exact, rtol=0.03, atol=0.03)
        visited = core.visited(inputs[0], inputs[1], torch.arange(400))
    assert torch.equal(visited, core.visited(inputs[0].float(), inputs[1].float(), torch.arange(400)))


@pytest.mark.parametrize("at_once", [100, 10**6])
def test_dropped_weights_come_out_the_same_in_the_backward_pass(
    make_spec: Spec, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """The output is linear in the values: with the same weights dropped, its gradient by them is the weights."""
    monkeypatch.setattr(topk, "SLICE", at_once)
    monkeypatch.setattr(dense, "KEPT", at_once)
    q, k = random(1, 1, 12, 8), random(1, 1, 12, 8, seed=1)
    v = torch.eye(12, dtype=torch.float64).expand(1, 1, 12, 12).clone().requires_grad_()
    torch.manual_seed(0)
    weights = TopKAttention(make_spec(), keys=4, dropout=0.5, dropout_on="weights")(q, k, v)
    assert (weights == 0).sum() > 12 * 12 - 12 * 4
    (gradient,) = torch.autograd.grad(weights.sum(), v)
    torch.testing.assert_close(gradient, weights[0, 0].sum(0)[:, None].expand(12, 12)[None, None])


@pytest.mark.parametrize("at_once", [700, 10**6])
def test_compiles_in_one_graph(make_spec: Spec, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(topk, "SLICE", at_once)
    monkeypatch.setattr(dense, "KEPT", at_once)
    inputs = [random(2, 2, 17, 8, seed=seed).requires_grad_() for seed in range(3)]
    core = TopKAttention(make_spec(), keys=4)
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(f(*inputs).square().sum(), inputs) for f in (core, compiled)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_keys_below_one(make_spec: Spec) -> None:
    with pytest.raises(ValueError, match="keys must be at least 1, got 0"):
        TopKAttention(make_spec(), keys=0)
