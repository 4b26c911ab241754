"""No implementation is timed before its output and gradients are right."""

from __future__ import annotations

import pytest
import torch
from bench_fakes import TINY, Altered, Right, WrongGradient
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ablab.bench.attention.check import SAMPLE, WrongResultError, check, sample
from ablab.bench.attention.implementation import Attention, Expected


@pytest.fixture
def tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return TINY.draw(48, heads_first=True)


@given(length=st.integers(1, 10_000))
def test_the_sample_reaches_from_end_to_end(length: int) -> None:
    positions = sample(length).tolist()
    assert set(positions) >= {0, length - 1}
    assert all(0 <= position < length for position in positions)
    if length <= SAMPLE:
        assert set(positions) == set(range(length))
    assert sum(positions[:-2]) / len(positions[:-2]) == pytest.approx((length - 1) / 2, abs=0.51)


@pytest.mark.parametrize("backward", [False, True])
def test_right_attention_passes(tensors: tuple[Tensor, Tensor, Tensor, Tensor], backward: bool) -> None:
    keys = check(Right(), *tensors, backward=backward)
    assert keys == pytest.approx((sample(48) + 1).double().mean().item())  # causal: query i sees i + 1 keys


def last_row_off(out: Tensor) -> Tensor:
    return torch.cat([out[:, :, :-1], out[:, :, -1:] * 1.01], dim=2)


def only_head_off(out: Tensor) -> Tensor:
    return torch.cat([out[:, :1], out[:, 1:].roll(1, dims=3)], dim=1)


def first_row_off(out: Tensor) -> Tensor:
    return torch.cat([out[:, :, :1] * 1.5, out[:, :, 1:]], dim=2)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (last_row_off, "wrong output: off naive attention by .*, where .* is allowed"),
        (only_head_off, "wrong output"),
        (first_row_off, "wrong output of queries that see one key"),
        (lambda out: out * float("nan"), "wrong output"),
        (lambda out: out[..., :-1], "wrong output: of shape .*, not"),
    ],
)
def test_wrong_outputs(tensors: tuple[Tensor, Tensor, Tensor, Tensor], alter: object, message: str) -> None:
    assert callable(alter)
    with pytest.raises(WrongResultError, match=message):
        check(Altered(alter), *tensors, backward=False)


def test_wrong_gradients(tensors: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    wrong = Altered(WrongGradient.apply)
    check(wrong, *tensors, backward=False)  # its output is right
    with pytest.raises(WrongResultError, match="wrong gradient of the queries"):
        check(wrong, *tensors, backward=True)


@pytest.mark.parametrize(("index", "name"), [(1, "keys"), (2, "values")])
def test_a_gradient_that_is_missing(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor], index: int, name: str
) -> None:
    class Detached(Right):
        def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            given = [q, k, v]
            given[index] = given[index].detach()
            return super().__call__(*given)

    with pytest.raises(WrongResultError, match=f"wrong gradient of the {name}"):
        check(Detached(), *tensors, backward=True)


def test_an_expectation_of_another_attention_fails(tensors: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    class Strange(Attention):
        def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return Right()(q, k, v)

        def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
            return Right().expected(q, k.flip(2), v, positions)

    with pytest.raises(WrongResultError):
        check(Strange(), *tensors, backward=False)
