"""The pieces that sub-quadratic attention is made of: dense attentions that merge, by either implementation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.attention import kernel
from ablab.model.attention.kernel import FLOOR, NOBODY, Scale, attend, attend_backward, flash_works, working_dtype
from ablab.model.attention.lsh import LSHAttention

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
PRIVATE = "_scaled_dot_product_flash_attention_for_cpu"

few_examples = settings(max_examples=40, deadline=None, derandomize=True)
shapes = st.tuples(
    st.integers(1, 5),  # attentions
    st.integers(1, 3),  # heads
    st.sampled_from([1, 2, 31, 32, 33, 64]),  # queries
    st.sampled_from([1, 2, 17, 64, 65, 130]),  # keys
    st.sampled_from([1, 4, 8, 64]),  # size of a head
)
dtypes = st.sampled_from(sorted(TOLERANCE, key=str))


def draw(*shape: int, seed: int, dtype: torch.dtype, strided: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if not strided:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    *leading, rows, size = shape
    wide = torch.randn(rows * 2, *leading, size, generator=generator, dtype=torch.float64).to(dtype)
    return wide[::2].movedim(0, -2)


def problem(shape: tuple[int, ...], dtype: torch.dtype, seed: int, strided: bool, apart: bool) -> list[Tensor]:
    """Queries, keys, values and a bias: the same for all attentions, or `apart` one for each head of each."""
    N, H, R, K, D = shape
    q, k, v = (draw(N, H, length, D, seed=seed + n, dtype=dtype, strided=strided) for n, length in enumerate((R, K, K)))
    bias = draw(*((N, H) if apart else ()), R, K, seed=seed + 3, dtype=dtype)
    hidden = draw(*bias.shape, seed=seed + 4, dtype=dtype) < 0.3
    hidden[..., 0] = False  # every query sees something
    return [q, k, v, bias.masked_fill(hidden, FLOOR)]


def defined(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    scores = scale * q.double() @ k.double().transpose(-1, -2) + bias.double()
    return scores.softmax(-1) @ v.double(), scores.logsumexp(-1)


def near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found.double(), expected.double(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * size)


@pytest.fixture
def forget() -> Iterator[None]:
    """Ask anew whether the private operator works, and again after the test."""
    flash_works.cache_clear()
    yield
    flash_works.cache_clear()


@few_examples
@given(
    shape=shapes,
    dtype=dtypes,
    strided=st.booleans(),
    apart=st.booleans(),
    public=st.booleans(),
    seed=st.integers(0, 99),
)
def test_both_passes_are_what_autograd_makes_of_the_definition(
    shape: tuple[int, ...], dtype: torch.dtype, strided: bool, apart: bool, public: bool, seed: int
) -> None:
    q, k, v, bias = problem(shape, dtype, seed, strided, apart)
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    with pytest.MonkeyPatch.context() as patch:
        if public:
            patch.setattr(kernel, "flash_works", lambda: False)
        out, lse = attend(q, k, v, bias, Scale(0.4))
        expected, expected_lse = defined(exact[0], exact[1], exact[2], bias, 0.4)
        near(out, expected, dtype)
        near(lse, expected_lse, dtype)
        grad = draw(*out.shape, seed=seed + 5, dtype=dtype)
        found = attend_backward(grad, q, k, v, out, lse, bias, Scale(0.4))
    for ours, theirs in zip(found, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        near(ours, theirs, dtype)


@pytest.mark.usefixtures("either_kernel")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("cut", [1, 20, 49])
def test_parts_merge_into_the_whole(dtype: torch.dtype, cut: int) -> None:
    """Forward by their log-sum-exp; backward each part makes its share from the output of the whole."""
    q, k, v, bias = problem((2, 3, 33, 50, 8), dtype, 7, strided=False, apart=True)
    out, lse = attend(q, k, v, bias, Scale(0.4))
    parts = [(k[:, :, keys], v[:, :, keys], bias[..., keys]) for keys in (slice(cut), slice(cut, None))]
    (first, first_lse), (other, other_lse) = (attend(q, *part, Scale(0.4)) for part in parts)
    total = torch.logaddexp(first_lse, other_lse)
    near(total, lse, dtype)
    merged = first * (first_lse - total).exp().unsqueeze(-1) + other * (other_lse - total).exp().unsqueeze(-1)
    near(merged, out, dtype)
    grad = draw(*out.shape, seed=3, dtype=dtype)
    whole = attend_backward(grad, q, k, v, out, lse, bias, Scale(0.4))
    shares = [
        attend_backward(grad, q, part_k, part_v, out, lse, part_bias, Scale(0.4)) for part_k, part_v, part_bias in parts
    ]
    near(shares[0][0] + shares[1][0], whole[0], dtype)
    for which in (1, 2):
        near(torch.cat([share[which] for share in shares], 2), whole[which], dtype)


@pytest.mark.usefixtures("either_kernel")
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_query_that_sees_nothing_is_told_by_its_log_sum_exp_and_contributes_nothing(dtype: torch.dtype) -> None:
    q, k, v, bias = problem((2, 2, 33, 40, 8), dtype, 5, strided=False, apart=False)
    q[:, :, ::2] *= 1e6  # scores that would shine through, if the floor were one that any score could lift
    bias[::2] = FLOOR
    out, lse = attend(q, k, v, bias, Scale(0.4))
    assert out.isfinite().all()
    assert (lse[:, :, ::2] < NOBODY).all()
    assert (lse[:, :, 1::2] > NOBODY).all()
    lse = lse.masked_fill(lse < NOBODY, math.inf)
    grad = draw(*out.shape, seed=3, dtype=dtype)
    found = attend_backward(grad, q, k, v, out, lse, bias, Scale(0.4))
    assert not found[0][:, :, ::2].any()
    seen = slice(1, None, 2)
    given = (grad[:, :, seen], q[:, :, seen], k, v, out[:, :, seen], lse[:, :, seen], bias[seen])
    for ours, theirs in zip((found[0][:, :, seen], *found[1:]), attend_backward(*given, Scale(0.4)), strict=True):
        near(ours, theirs, dtype)


@pytest.mark.usefixtures("forget")
def test_the_private_operator_works_here() -> None:
    """If this fails after an update of PyTorch, all still computes the same, only slower."""
    assert flash_works()


def missing(*args: Any, **kwargs: Any) -> Any:
    raise AttributeError("no such operator")


def refuses(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("expected 7 arguments")


def swapped(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: tuple(reversed(original(*args, **kwargs)))


def halved(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: tuple(x / 2 for x in original(*args, **kwargs))


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(
    ("name", "change"),
    [
        (PRIVATE, "missing"),
        (PRIVATE, "refuses"),
        (PRIVATE, "halved"),
        (PRIVATE, "swapped"),
        (f"{PRIVATE}_backward", "missing"),
        (f"{PRIVATE}_backward", "refuses"),
        (f"{PRIVATE}_backward", "halved"),
        (f"{PRIVATE}_backward", "swapped"),
    ],
)
def test_a_private_operator_that_has_changed_is_not_used(
    monkeypatch: pytest.MonkeyPatch, name: str, change: str
) -> None:
    original = getattr(torch.ops.aten, name)
    changed = {"missing": missing, "refuses": refuses, "swapped": swapped(original), "halved": halved(original)}
    monkeypatch.setattr(torch.ops.aten, name, changed[change])
    assert not flash_works()
    q, k, v, bias = problem((1, 1, 5, 6, 8), torch.float64, 1, strided=False, apart=False)
    near(attend(q, k, v, bias, Scale(0.4))[0], defined(q, k, v, bias, 0.4)[0], torch.float64)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_branches_merge_in_single_precision_at_least(given: torch.dtype, expected: torch.dtype) -> None:
    assert working_dtype(torch.empty(1, dtype=given)) == expected


@pytest.mark.parametrize("length", [1, 40])
def test_both_implementations_make_one_operator_to_pytorch(
    check_operators: Callable[..., set[str]],
    make_problem: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    length: int,
) -> None:
    given = make_problem(length=length, dtype=torch.float32, layout="transposed", padded="left")
    core = LSHAttention(given.spec, rounds=2, bucket_size=4)
    monkeypatch.setattr(kernel, "flash_works", lambda: False)
    assert check_operators(core, given) == {"ablab::sparse_attention", "ablab::sparse_attention_backward"}
