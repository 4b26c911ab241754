"""The dense definitions against the rules read aloud, position by position."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ablab.bench.attention import definitions

seeds = st.integers(0, 10_000)


def everywhere(length: int) -> Tensor:
    return torch.arange(length)


@pytest.mark.parametrize("causal", [False, True])
def test_weights_of_one_or_none_are_masked_attention(causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 3, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = definitions.everything(everywhere(9), 9, causal=causal)
    found = definitions.weighted(q, k, v, everywhere(9), seen)
    torch.testing.assert_close(found.out, scaled_dot_product_attention(q, k, v, is_causal=causal))
    assert found.keys == (5.0 if causal else 9.0)
    assert found.alone[0, 0].tolist() == [causal, *[False] * 8]


def test_a_key_of_weight_two_is_there_twice() -> None:
    q, k, v = torch.randn(3, 1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([[1.0, 2.0, 0.0, 1.0]], dtype=torch.float64)
    twice = torch.tensor([0, 1, 1, 3])
    found = definitions.weighted(q, k, v, torch.tensor([2]), weights, scale=0.7)
    expected = scaled_dot_product_attention(q[:, :, [2]], k[:, :, twice], v[:, :, twice], scale=0.7)
    torch.testing.assert_close(found.out, expected)


@given(length=st.integers(1, 12), keys=st.integers(1, 5), causal=st.booleans())
def test_windows(length: int, keys: int, causal: bool) -> None:
    found = definitions.window(everywhere(length), length, keys=keys, causal=causal)
    for i in range(length):
        for j in range(length):
            assert found[i, j] == (i - keys < j <= i if causal else abs(i - j) <= keys)


@given(chunks=st.integers(1, 4), chunk=st.integers(1, 3), back=st.integers(0, 2))
def test_chunks_of_the_sequence(chunks: int, chunk: int, back: int) -> None:
    length = chunks * chunk
    found = definitions.chunks_back(everywhere(length), length, chunk=chunk, back=back)
    for i in range(length):
        for j in range(length):
            assert found[i, j] == (j <= i and i // chunk - j // chunk <= back)


@settings(max_examples=30)
@given(seed=seeds, length=st.integers(1, 10), rounds=st.integers(1, 3), nearest=st.integers(1, 4))
def test_mates_in_buckets(seed: int, length: int, rounds: int, nearest: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, keys = torch.randint(0, 3, (2, 1, 2, rounds, length), generator=generator)
    found = definitions.bucket_mates(queries, keys, everywhere(length), nearest=nearest)
    for h in range(2):
        for i in range(length):
            seen: set[int] = set()
            for r in range(rounds):
                mates = [j for j in range(i) if keys[0, h, r, j] == queries[0, h, r, i]]
                seen |= set(mates[-nearest:])
            assert {j for j in range(length) if found[0, h, i, j]} == seen


@settings(max_examples=30)
@given(seed=seeds, chunks=st.integers(1, 4), chunk=st.integers(1, 3), rounds=st.integers(1, 3))
def test_chunks_of_the_sorted_keys(seed: int, chunks: int, chunk: int, rounds: int) -> None:
    length = chunks * chunk
    drawn = torch.randint(0, 3, (1, 2, rounds, length), generator=torch.Generator().manual_seed(seed))
    buckets = drawn + 3 * torch.arange(rounds)[:, None]
    found = definitions.sorted_chunks(buckets, everywhere(length), chunk=chunk)
    for h in range(2):
        pairs = [(int(buckets[0, h, r, j]), j) for r in range(rounds) for j in range(length)]
        cut = [sorted(pairs)[start : start + chunk] for start in range(0, len(pairs), chunk)]
        for i in range(length):
            count = [0] * length
            for number, own in enumerate(cut):
                # A query is in one chunk of each round, and looks one chunk back, which of the first is the last.
                looks = [j for _, j in [*own, *cut[number - 1]]]
                for _ in [j for _, j in own if j == i]:
                    for j in looks:
                        count[j] += j <= i
            assert found[0, h, i].tolist() == count


def test_oneself_only_without_company() -> None:
    seen = torch.tensor([[1.0, 0, 0], [1, 2, 0], [0, 0, 0]], dtype=torch.float64)
    found = definitions.self_only_if_alone(seen, everywhere(3))
    assert found.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
