from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.attention.lsh import LSHAttention
from ablab.model.attention.naive import lsh_mask, masked_attention
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]


def qkv(length: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 2, length, 8, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


def dense(core: LSHAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked_attention(q, k, v, lsh_mask(core.hash(q), core.hash(k), core.bucket_size, core.causal))


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 40),
    bucket_size=st.integers(1, 12),
    buckets=st.sampled_from([None, 1, 2, 6]),
    rounds=st.integers(1, 3),
    causal=st.booleans(),
    precision=st.sampled_from([(torch.float32, 1e-5), (torch.float64, 1e-9)]),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_are_those_of_the_definition(
    make_spec: Spec,
    length: int,
    bucket_size: int,
    buckets: int | None,
    rounds: int,
    causal: bool,
    precision: tuple[torch.dtype, float],
    seed: int,
) -> None:
    dtype, tolerance = precision
    inputs = qkv(length, dtype, seed)
    spec = make_spec(causal=causal, max_length=40, seed=seed)
    core = LSHAttention(spec, rounds=rounds, bucket_size=bucket_size, buckets=buckets)
    out, expected = core(*inputs), dense(core, *inputs)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    gradients = torch.autograd.grad(out, inputs, direction, allow_unused=True, materialize_grads=True)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, inputs, direction), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


class Buckets(LSHAttention):
    """With buckets given instead of hashed: the rule itself can be laid out by hand."""

    def __init__(self, spec: LayerSpec, q: list[list[int]], k: list[list[int]], **options: Any) -> None:
        super().__init__(spec, rounds=len(q), buckets=4, **options)
        self.given = {True: q, False: k}
        self.turn = False

    def hash(self, x: Tensor) -> Tensor:
        self.turn = not self.turn  # queries, then keys
        return torch.tensor(self.given[self.turn]).expand(*x.shape[:2], -1, -1)


@pytest.mark.parametrize(
    ("q", "k", "seen"),
    [
        # One bucket, chunks of two: the chunk of the last key so far and the one before, never the query's own key.
        ([[0] * 6], [[0] * 6], [{0}, {0}, {0, 1}, {0, 1, 2}, {2, 3}, {2, 3, 4}]),
        # Own bucket only; a query that has nothing else keeps its own key, whatever bucket that is in.
        ([[0, 1, 0, 1, 3, 0]], [[0, 0, 1, 1, 1, 0]], [{0}, {1}, {0, 1}, {2}, {4}, {0, 1}]),
        # Two rounds: whatever either of them brings.
        ([[0] * 4, [1, 2, 1, 2]], [[0, 0, 0, 3], [1, 2, 1, 1]], [{0}, {0}, {0, 1}, {0, 1, 2}]),
    ],
)
def test_the_rule_by_hand(make_spec: Spec, q: list[list[int]], k: list[list[int]], seen: list[set[int]]) -> None:
    inputs = [x[:1] for x in qkv(len(seen))]
    core = Buckets(make_spec(), q, k, bucket_size=2)
    mask = core.visited(inputs[0], inputs[1], torch.arange(len(seen)))[0, 0]
    assert [set(row.nonzero().flatten().tolist()) for row in mask] == seen
    torch.testing.assert_close(core(*inputs), masked_attention(*inputs, mask))
    naive = lsh_mask(torch.tensor(q)[None, None], torch.tensor(k)[None, None], 2, causal=True)
    assert torch.equal(naive[0, 0], mask)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rounds", [1, 4])
def test_one_bucket_in_one_chunk_is_full_attention_but_for_the_query_itself(
    make_spec: Spec, causal: bool, rounds: int
) -> None:
    inputs = qkv(20)
    mask = ~torch.eye(20, dtype=torch.bool)
    if causal:
        mask = mask.tril()
        mask[0, 0] = True
    core = LSHAttention(make_spec(causal=causal), rounds=rounds, bucket_size=20, buckets=1)
    # With four rounds every key comes four times; counted once, it changes nothing.
    torch.testing.assert_close(core(*inputs), masked_attention(*inputs, mask), rtol=1e-12, atol=1e-12)


def test_keys_met_in_different_numbers_of_rounds_weigh_the_same(make_spec: Spec) -> None:
    """Equal scores: the output is the mean of the values seen, however often each was seen."""
    v = qkv(4)[2][:1]
    q = torch.zeros_like(v)
    rounds = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 2, 1, 0]]  # query 3 meets key 0 three times, key 2 twice, key 1 once
    core = Buckets(make_spec(), rounds, rounds, bucket_size=4)
    torch.testing.assert_close(core(q, q, v)[:, :, 3], v[:, :, :3].mean(2), rtol=1e-12, atol=1e-12)


def test_a_lone_position_returns_its_value_and_a_finite_gradient(make_spec: Spec) -> None:
    inputs = qkv(1)
    out = LSHAttention(make_spec(), rounds=2, bucket_size=4)(*inputs)
    assert torch.equal(out, inputs[2])
    out.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs)


def test_near_neighbours_share_a_bucket(make_spec: Spec) -> None:
    """For two buckets P(same) = 1 - angle / pi (Charikar 2002, section 3), over many random rotations."""
    core = LSHAttention(make_spec(n_heads=1, d_model=8, max_length=64), rounds=4000, bucket_size=32, buckets=2)
    angle = torch.tensor([0.0, math.pi / 6, math.pi / 3, math.pi / 2, math.pi])
    x = torch.zeros(1, 1, len(angle), 8)
    x[0, 0, :, 0], x[0, 0, :, 1] = angle.cos(), angle.sin()
    buckets = core.hash(x)[0, 0]
    same = (buckets == buckets[:, :1]).double().mean(0)
    torch.testing.assert_close(same, 1 - angle.double() / math.pi, rtol=0, atol=0.04)  # five standard errors


def test_length_of_a_vector_does_not_matter_to_its_bucket(make_spec: Spec) -> None:
    core = LSHAttention(make_spec(), rounds=2, bucket_size=4)
    q = qkv(40)[0]
    assert torch.equal(core.hash(q), core.hash(q * 8))


@pytest.mark.parametrize(("length", "buckets"), [(1, 1), (8, 1), (9, 2), (16, 2), (33, 4), (64, 8)])
def test_as_many_buckets_as_the_sequence_fills(make_spec: Spec, length: int, buckets: int) -> None:
    core = LSHAttention(make_spec(), rounds=64, bucket_size=8)
    assert core.hash(qkv(length)[0]).unique().tolist() == list(range(buckets))


def test_rotations_are_a_function_of_seed_layer_and_step(make_spec: Spec) -> None:
    def rotations(step: int, **changes: int) -> Tensor:
        core = LSHAttention(make_spec(**changes), rounds=2, bucket_size=4)
        core.resample(step)
        return core.rotations

    assert torch.equal(rotations(3), rotations(3))
    different = [rotations(3), rotations(4), rotations(3, seed=1), rotations(3, layer_index=1)]
    assert len({tuple(r.flatten().tolist()) for r in different}) == 4
    unstepped = LSHAttention(make_spec(), rounds=2, bucket_size=4)
    assert torch.equal(unstepped.rotations, rotations(0))


def test_evaluation_uses_one_rotation_whatever_the_step(make_spec: Spec) -> None:
    core = LSHAttention(make_spec(), rounds=2, bucket_size=4)
    inputs = qkv(50)
    training, evaluation = core(*inputs), core.eval()(*inputs)
    core.resample(9)
    assert torch.equal(core(*inputs), evaluation)
    assert not torch.allclose(core.train()(*inputs), training)
    assert not core.state_dict()


def test_memory_grows_with_the_length_and_not_with_its_square(make_spec: Spec) -> None:
    def saved(length: int) -> int:
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        core = LSHAttention(make_spec(max_length=2048), rounds=2, bucket_size=16)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            core(*qkv(length))
        return total

    once = saved(256)
    assert 1.9 * once < saved(512) < 2.1 * once
    assert 7.6 * once < saved(2048) < 8.4 * once


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0, "bucket_size": 4}, "rounds must be at least 1, got 0"),
        ({"rounds": 1, "bucket_size": 0}, "bucket_size must be at least 1, got 0"),
        ({"rounds": 1, "bucket_size": 4, "buckets": 3}, "buckets must be 1, an even number or null, got 3"),
        ({"rounds": 1, "bucket_size": 4, "buckets": 0}, "buckets must be 1, an even number or null, got 0"),
    ],
)
def test_options_out_of_range(make_spec: Spec, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LSHAttention(make_spec(), **options)
