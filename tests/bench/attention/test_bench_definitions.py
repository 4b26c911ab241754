"""The dense definitions that everything is checked against, themselves checked against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.bench.attention import definitions

LENGTHS = st.integers(1, 24)


def dense(rule: object, length: int) -> Tensor:
    """rule(i, j) for all queries i and keys j."""
    assert callable(rule)
    return torch.tensor([[float(rule(i, j)) for j in range(length)] for i in range(length)], dtype=torch.float64)


@given(length=LENGTHS, keys=st.integers(1, 30), causal=st.booleans())
def test_a_window(length: int, keys: int, causal: bool) -> None:
    found = definitions.window(torch.arange(length), length, keys=keys, causal=causal)
    assert found.equal(dense(lambda i, j: 0 <= i - j < keys if causal else abs(i - j) <= keys, length))
    everything = definitions.everything(torch.arange(length), length, causal=causal)
    assert everything.equal(dense(lambda i, j: j <= i or not causal, length))


@given(length=LENGTHS, chunk=st.integers(1, 8), back=st.integers(0, 3))
def test_chunks_back(length: int, chunk: int, back: int) -> None:
    found = definitions.chunks_back(torch.arange(length), length, chunk=chunk, back=back)
    assert found.equal(dense(lambda i, j: j <= i and j >= (i // chunk - back) * chunk, length))


@settings(deadline=None)
@given(data=st.data(), length=LENGTHS, rounds=st.integers(1, 3), nearest=st.integers(1, 4))
def test_bucket_mates(data: st.DataObject, length: int, rounds: int, nearest: int) -> None:
    numbers = st.lists(st.integers(0, 2), min_size=length, max_size=length)
    q, k = ([data.draw(numbers) for _ in range(rounds)] for _ in range(2))

    def seen(i: int, j: int) -> bool:
        return any(j in [n for n in range(i) if k[r][n] == q[r][i]][-nearest:] for r in range(rounds))

    found = definitions.bucket_mates(
        torch.tensor(q)[None, None], torch.tensor(k)[None, None], torch.arange(length), nearest=nearest
    )
    assert found[0, 0].equal(dense(seen, length))


@settings(deadline=None)
@given(data=st.data(), chunks=st.integers(1, 5), chunk=st.integers(1, 4), rounds=st.integers(1, 3))
def test_sorted_chunks(data: st.DataObject, chunks: int, chunk: int, rounds: int) -> None:
    """Sort all rounds' keys by bucket and position; look at one's own chunk and the one before it, in a circle."""
    length = chunks * chunk
    numbers = st.lists(st.integers(0, 2), min_size=length, max_size=length)
    buckets = [[3 * r + bucket for bucket in data.draw(numbers)] for r in range(rounds)]
    entries = sorted((buckets[r][j], j, r) for r in range(rounds) for j in range(length))
    cut = [entries[at : at + chunk] for at in range(0, len(entries), chunk)]

    def count(i: int, j: int) -> int:
        own = [n for n, part in enumerate(cut) for _, position, _ in part if position == i]
        return sum(j == position for n in own for part in (cut[n], cut[n - 1]) for _, position, _ in part) * (j <= i)

    found = definitions.sorted_chunks(torch.tensor(buckets)[None, None], torch.arange(length), chunk=chunk)
    assert found[0, 0].equal(dense(count, length))


def test_the_own_key_counts_only_where_no_other_does() -> None:
    weights = torch.tensor([[1.0, 0, 0], [2, 2, 0], [0, 0, 0]])
    assert definitions.self_only_if_alone(weights, torch.arange(3)).tolist() == [[1, 0, 0], [2, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("scale", [None, 1.0])
def test_weights_beside_the_exponentials(scale: float | None) -> None:
    """As the formula reads, one query and one feature at a time."""
    T, D = 5, 3
    q, k, v = (torch.randn(1, 1, T, D, generator=torch.Generator().manual_seed(n)) for n in range(3))
    weights = dense(lambda i, j: [0.0, 1.0, 2.0, 0.25][(i + 2 * j) % 4] if j else 1.0, T)
    positions = torch.tensor([4, 0, 2])
    found = definitions.weighted(q, k, v, positions, weights[positions], scale=scale)
    for row, i in enumerate(positions.tolist()):
        factor = 1 / math.sqrt(D) if scale is None else scale
        scores = [factor * sum(float(q[0, 0, i, d]) * float(k[0, 0, j, d]) for d in range(D)) for j in range(T)]
        parts = [float(weights[i, j]) * math.exp(scores[j]) for j in range(T)]
        right = [sum(part * float(v[0, 0, j, d]) for j, part in enumerate(parts)) / sum(parts) for d in range(D)]
        assert found.out[0, 0, row].tolist() == pytest.approx(right, rel=1e-12)
    assert found.keys == pytest.approx((weights[positions] > 0).sum(-1).double().mean().item())
    assert found.alone.flatten().tolist() == ((weights[positions] > 0).sum(-1) == 1).tolist()


def test_scores_of_any_size() -> None:
    """A score of a key that is not seen must not push those that are out of range."""
    q = torch.tensor([[1e4], [1e4]])[None, None]
    k = torch.tensor([[1.0], [1e4]])[None, None]
    found = definitions.weighted(q, k, k, torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
    assert found.out.item() == 1.0
