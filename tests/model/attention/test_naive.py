"""The reference itself, against tables laid out by hand and against the definitions as loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import (
    dynamic_weight,
    full_mask,
    lsh_mask,
    masked_attention,
    own_if_alone,
    span_weight,
    window_mask,
    without_own,
    without_padding,
)
from torch import Tensor

Problems = Any
few_examples = settings(max_examples=30, deadline=None, derandomize=True)


def sets(mask: Tensor) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in mask]


def picture(*rows: str) -> Tensor:
    return torch.tensor([[sign == "x" for sign in row] for row in rows])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (full_mask(3, True), picture("x..", "xx.", "xxx")),
        (full_mask(3, False), picture("xxx", "xxx", "xxx")),
        (window_mask(4, 1, True), picture("x...", ".x..", "..x.", "...x")),
        (window_mask(4, 2, True), picture("x...", "xx..", ".xx.", "..xx")),
        (window_mask(4, 1, False), picture("xx..", "xxx.", ".xxx", "..xx")),
        (window_mask(5, 2, True, dilation=2), picture("x....", ".x...", "x.x..", ".x.x.", "..x.x")),
        (window_mask(5, 1, False, dilation=2), picture("x.x..", ".x.x.", "x.x.x", ".x.x.", "..x.x")),
        (window_mask(4, 1, True, global_tokens=1), picture("x...", "xx..", "x.x.", "x..x")),
        (window_mask(4, 1, True, global_tokens=2), picture("x...", "xx..", "xxx.", "xx.x")),
        (window_mask(5, 1, False, dilation=3, global_tokens=1), picture("xxxxx", "xx..x", "x.x..", "x..x.", "xx..x")),
    ],
)
def test_masks_by_hand(mask: Tensor, expected: Tensor) -> None:
    assert torch.equal(mask, expected)


@pytest.mark.parametrize(
    ("q", "k", "causal", "seen"),
    [
        # One bucket: the two last ones before; of two, one on either side.
        ([[0] * 5], [[0] * 5], True, [set(), {0}, {0, 1}, {1, 2}, {2, 3}]),
        ([[0] * 5], [[0] * 5], False, [{1}, {0, 2}, {1, 3}, {2, 4}, {3}]),
        # Own bucket only; what lies between in other buckets does not count.
        ([[0, 1, 0, 1, 3, 0]], [[0, 0, 1, 1, 1, 0]], True, [set(), set(), {0, 1}, {2}, set(), {0, 1}]),
        ([[0, 1, 0, 1, 3, 0]], [[0, 0, 1, 1, 1, 0]], False, [{1}, {2}, {1, 5}, {2, 4}, set(), {1}]),
        # Two rounds: whatever either of them brings.
        ([[0] * 4, [1, 2, 1, 2]], [[0, 0, 0, 3], [1, 2, 1, 1]], True, [set(), {0}, {0, 1}, {1, 2}]),
    ],
)
def test_hashing_by_hand(q: list[list[int]], k: list[list[int]], causal: bool, seen: list[set[int]]) -> None:
    mask = lsh_mask(torch.tensor(q)[None, None], torch.tensor(k)[None, None], 2, causal)
    assert sets(mask[0, 0]) == seen


@few_examples
@given(
    length=st.integers(1, 12),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2)]),
    rounds=st.integers(1, 3),
    buckets=st.integers(1, 3),
    size=st.integers(1, 6),
    causal=st.booleans(),
    padded=st.booleans(),
    seed=st.integers(0, 100),
)
def test_hashing_read_aloud(
    length: int,
    heads: tuple[int, int],
    rounds: int,
    buckets: int,
    size: int,
    causal: bool,
    padded: bool,
    seed: int,
) -> None:
    (H, K), generator = heads, torch.Generator().manual_seed(seed)
    q, k = (torch.randint(buckets, (2, n, rounds, length), generator=generator) for n in heads)
    padding = torch.rand(2, length, generator=generator) < 0.3 if padded else None
    mask = lsh_mask(q, k, size, causal, padding)
    for b in range(2):
        keys = [j for j in range(length) if padding is None or not padding[b, j]]
        for h in range(H):
            for i in range(length):
                seen = set()
                for r in range(rounds):
                    mine = [j for j in keys if k[b, h * K // H, r, j] == q[b, h, r, i]]
                    before, after = [j for j in mine if j < i], [j for j in mine if j > i]
                    half = max(1, size // 2)
                    seen |= set(before[-size:]) if causal else set(before[-half:]) | set(after[:half])
                assert sets(mask[b, h])[i] == seen


def test_a_span_has_a_soft_edge() -> None:
    weight = span_weight(6, torch.tensor([[[1.0], [2.5]]]), ramp=2.0)
    assert weight.shape == (1, 2, 6, 6)
    assert weight[0, 0, 5].tolist() == [0, 0, 0, 0.5, 1, 1]  # distances 5 to 0
    assert weight[0, 1, 5].tolist() == [0, 0.25, 0.75, 1, 1, 1]
    assert torch.equal(weight, weight.transpose(-1, -2))


@pytest.mark.parametrize(
    ("causal", "span", "expected"),
    [
        # Every key is hashed, so beyond the window, or where the edge ends, all count fully. The query is 3 of 0..6.
        (True, None, [1, 1, 1, 1, 0, 0, 0]),
        (True, 0.0, [1, 1, 0.5, 1, 0, 0, 0]),
        (True, 0.5, [1, 0.25, 0.75, 1, 0, 0, 0]),  # distance 2 is still local, and 3 is beyond the window
        (True, 9.0, [1, 1, 1, 1, 0, 0, 0]),
        (False, 0.0, [1, 1, 0.5, 1, 0.5, 1, 1]),
        (False, 1.5, [0.25, 0.75, 1, 1, 1, 0.75, 0.25]),
    ],
)
def test_what_the_span_leaves_out_can_come_by_hash(causal: bool, span: float | None, expected: list[float]) -> None:
    spans = None if span is None else torch.tensor([[[span]]])
    hashed = without_own(full_mask(7, causal)).expand(1, 1, 7, 7)
    weight = dynamic_weight(7, 3, causal, spans=spans, ramp=2.0, hashed=hashed).expand(1, 1, 7, 7)
    assert weight[0, 0, 3].tolist() == expected
    without = dynamic_weight(7, 3, causal, spans=spans, ramp=2.0).expand(1, 1, 7, 7)[0, 0, 3]
    near = torch.tensor([d < 3 if causal else d <= 3 for d in (3, 2, 1, 0, 1, 2, 3)])
    assert not without[~near].any()


def test_the_window_ends_what_the_span_would_reach() -> None:
    weight = dynamic_weight(5, 2, True, spans=torch.tensor([[[9.0]]]), ramp=2.0)
    assert torch.equal(weight[0, 0] > 0, window_mask(5, 2, True))


def test_own_key_where_there_is_no_other() -> None:
    padding = torch.tensor([[False, False, False, True]])
    mask = without_padding(without_own(window_mask(4, 2, True)), padding).expand(1, 1, 4, 4)
    assert sets(own_if_alone(mask, padding)[0, 0]) == [{0}, {0}, {1}, {2}]
    assert sets(own_if_alone(mask & False, padding)[0, 0]) == [{0}, {1}, {2}, set()]


@few_examples
@given(data=st.data(), weighted=st.booleans())
def test_attention_is_a_weighted_mean(problems: Problems, data: st.DataObject, weighted: bool) -> None:
    problem = data.draw(problems.filter(lambda problem: problem.length < 40))
    q, k, v = (x.detach().double() for x in problem.inputs())
    T, (H, K) = problem.length, problem.heads
    generator = torch.Generator().manual_seed(problem.seed)
    weight = torch.rand(problem.batch, H, T, T, generator=generator, dtype=torch.float64)
    mask = without_padding(weight < 0.4, problem.padding())
    out = masked_attention(q, k, v, mask, (weight - 0.1).clamp(min=0) if weighted else None)
    b, h, i = problem.batch - 1, H - 1, T // 2
    total, mixed = 0.0, torch.zeros(v.shape[-1], dtype=torch.float64)
    for j in range(T):
        if mask[b, h, i, j] and (not weighted or weight[b, h, i, j] > 0.1):
            share = math.exp(q[b, h, i] @ k[b, h * K // H, j] / math.sqrt(q.shape[-1]))
            share *= weight[b, h, i, j].item() - 0.1 if weighted else 1
            total, mixed = total + share, mixed + share * v[b, h * K // H, j]
    torch.testing.assert_close(out[b, h, i], mixed / total if total else mixed)


def test_gradients_are_finite_where_nothing_is_seen_or_weighs(make_problem: Callable[..., Any]) -> None:
    q, k, v = make_problem(length=4).inputs()
    weight = torch.tensor([0.0, 1.0, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    out = masked_attention(q, k, v, picture("....", "x..x", ".xx.", "xxxx"), weight)
    assert not out[:, :, :2].any()
    out.square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v, weight))
    assert not q.grad[:, :, :2].any()


def test_gradients_of_the_reference_are_those_of_differences(make_problem: Callable[..., Any]) -> None:
    q, k, v = make_problem(length=5, heads=(4, 2), sizes=(4, 3), batch=1).inputs()
    spans = torch.tensor([[[0.3], [1.2], [2.1], [0.7]]], dtype=torch.float64, requires_grad=True)

    def attention(q: Tensor, k: Tensor, v: Tensor, spans: Tensor) -> Tensor:
        weight = dynamic_weight(5, 3, True, spans=spans, ramp=2.0)
        out: Tensor = masked_attention(q, k, v, weight > 0, weight)
        return out

    assert torch.autograd.gradcheck(attention, (q, k, v, spans))
