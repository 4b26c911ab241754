from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.attention.full import FullAttention
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, *, causal: bool, share_qk: bool = False
) -> Tensor:
    B, H, T, D = q.shape
    group = H // k.shape[1]
    out = []
    for b in range(B):
        for h in range(H):
            keys, values = k[b, h // group], v[b, h // group]
            for i in range(T):
                seen = [j for j in range(i + 1 if causal else T) if padding is None or not padding[b, j]]
                if share_qk:
                    seen = [j for j in seen if j != i] or seen
                weights = (keys[seen] @ q[b, h, i] / math.sqrt(D)).softmax(0)
                out.append(weights @ values[seen])  # zero where nothing is seen
    return torch.stack(out).view(B, H, T, v.shape[-1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 12),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)]),
    sizes=st.sampled_from([(4, 4), (6, 4), (4, 6)]),
    causal=st.booleans(),
    share_qk=st.booleans(),
    padded=st.sampled_from([None, 0.3, 1.0]),
    precision=st.sampled_from([(torch.float32, 1e-5), (torch.float64, 1e-9)]),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_are_those_of_the_definition(
    make_spec: Spec,
    length: int,
    heads: tuple[int, int],
    sizes: tuple[int, int],
    causal: bool,
    share_qk: bool,
    padded: float | None,
    precision: tuple[torch.dtype, float],
    seed: int,
) -> None:
    (H, K), (D, Dv), (dtype, tolerance) = heads, sizes, precision
    share_qk = share_qk and H == K
    shapes = [(2, H, length, D), (2, K, length, D), (2, K, length, Dv)]
    inputs = [random(*shape, seed=seed + i, dtype=dtype).requires_grad_() for i, shape in enumerate(shapes)]
    padding = None if padded is None else random(2, length, seed=seed).sigmoid() < padded
    core = FullAttention(make_spec(n_heads=H, n_kv_heads=K, d_model=12, causal=causal), share_qk=share_qk)
    out = core(*inputs, padding)
    expected = by_definition(inputs[0], inputs[1], inputs[2], padding, causal=causal, share_qk=share_qk)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    direction = random(*out.shape, seed=seed, dtype=dtype)
    ours = torch.autograd.grad(out, inputs, direction)
    # Where nothing is seen at all, the definition does not even touch its inputs.
    theirs = torch.autograd.grad(expected, inputs, direction, allow_unused=True, materialize_grads=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_sequences_of_padding_alone_give_zero_and_finite_gradients(
    make_spec: Spec, dtype: torch.dtype, dropout: float
) -> None:
    inputs = [random(2, 2, 5, 8, seed=seed, dtype=dtype).requires_grad_() for seed in range(3)]
    padding = torch.tensor([[True] * 5, [True, True, False, False, True]])
    out = FullAttention(make_spec(), dropout=dropout, dropout_on="weights")(*inputs, padding)
    assert out.dtype == dtype
    assert not out[0].any()
    assert not out[1, :, :2].any()
    out.square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs)


def test_values_narrower_than_keys_do_not_cost_a_matrix_of_weights(make_spec: Spec) -> None:
    q, k, v = (random(1, 1, 512, size, dtype=torch.float32).requires_grad_() for size in (12, 12, 8))
    largest = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        FullAttention(make_spec())(q, k, v)
    assert largest == q.numel()


@pytest.mark.parametrize(
    ("causal", "share_qk", "seen"),
    [
        (True, False, [[0], [0, 1, 2], [0, 1, 2, 3]]),
        (False, False, [[0, 1, 2, 3]] * 3),
        (True, True, [[0], [0, 1], [0, 1, 2]]),
        (False, True, [[1, 2, 3], [0, 1, 3], [0, 1, 2]]),
    ],
)
def test_visited(make_spec: Spec, causal: bool, share_qk: bool, seen: list[list[int]]) -> None:
    q = random(1, 2, 4, 8)
    visited = FullAttention(make_spec(causal=causal), share_qk=share_qk).visited(q, q, torch.tensor([0, 2, 3]))
    assert [row.nonzero().flatten().tolist() for row in visited.expand(3, 4)] == seen


def test_dropped_weights_are_whole_keys_and_keep_the_mean(make_spec: Spec) -> None:
    """With the identity as values, the output is the weights themselves."""
    T = 64
    q = torch.zeros(1, 1, T, T)
    v = torch.eye(T).expand(1, 1, T, T)
    core = FullAttention(make_spec(causal=False), dropout=0.25, dropout_on="weights")
    torch.manual_seed(0)
    weights = core(q, q, v)
    torch.testing.assert_close(weights.mul(T).unique(), torch.tensor([0, 4 / 3]))
    assert (weights == 0).float().mean() == pytest.approx(0.25, abs=0.03)  # four standard errors
    torch.testing.assert_close(core.eval()(q, q, v), torch.full_like(q, 1 / T))


def test_dropout_on_the_output_drops_features(make_spec: Spec) -> None:
    q, k, v = (random(1, 2, 40, 8, seed=seed) for seed in range(3))
    core = FullAttention(make_spec(), dropout=0.25)
    torch.manual_seed(0)
    out, whole = core(q, k, v), core.eval()(q, k, v)
    dropped = out == 0
    assert dropped.double().mean() == pytest.approx(0.25, abs=0.07)  # four standard errors
    torch.testing.assert_close(out[~dropped], whole[~dropped] / 0.75)


@pytest.mark.parametrize("padded", [True, False])
def test_compiles_in_one_graph(make_spec: Spec, padded: bool) -> None:
    inputs = [random(2, 2, 9, 8, seed=seed).requires_grad_() for seed in range(3)]
    padding = torch.arange(9).expand(2, 9) < 2 if padded else None
    core = FullAttention(make_spec())
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(f(*inputs, padding).square().sum(), inputs) for f in (core, compiled)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_autocast_computes_in_half_precision(make_spec: Spec) -> None:
    q, k, v = (random(2, 2, 9, 8, seed=seed, dtype=torch.float32) for seed in range(3))
    core = FullAttention(make_spec())
    with torch.autocast("cpu", torch.bfloat16):
        out = core(q, k, v)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), core(q, k, v), rtol=0.02, atol=0.02)
