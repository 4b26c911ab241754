"""What collectives send, against rings that are walked through step by step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablab.training.traffic.counter import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    BROADCAST,
    GATHER,
    OPERATORS,
    REDUCE,
    REDUCE_SCATTER,
    SCATTER,
    SEND,
    flat,
    size,
)


def ring_reduce_scatter(pieces: list[list[int]]) -> int:
    """Pass partial sums on until process p has the whole sum of piece p + 1; what each has sent, in pieces."""
    n, sent = len(pieces), 0
    for turn in range(n - 1):
        moving = [(p, (p - turn) % n) for p in range(n)]
        values = [pieces[p][piece] for p, piece in moving]
        for (p, piece), value in zip(moving, values, strict=True):
            pieces[(p + 1) % n][piece] += value
        sent += 1
    return sent


def ring_all_gather(pieces: list[list[int]]) -> int:
    """Pass on what is whole, process p beginning with piece p + 1; what each has sent, in pieces."""
    n, sent = len(pieces), 0
    for turn in range(n - 1):
        moving = [(p, (p + 1 - turn) % n) for p in range(n)]
        values = [pieces[p][piece] for p, piece in moving]
        for (p, piece), value in zip(moving, values, strict=True):
            pieces[(p + 1) % n][piece] = value
        sent += 1
    return sent


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_a_ring_sends_what_the_closed_forms_say(n: int) -> None:
    piece = 12  # bytes
    held = [[10**p * (k + 1) for k in range(n)] for p in range(n)]
    total = [sum(of) for of in zip(*held, strict=True)]
    scattered = ring_reduce_scatter(held)
    assert [held[p][(p + 1) % n] for p in range(n)] == [total[(p + 1) % n] for p in range(n)]
    gathered = ring_all_gather(held)
    assert held == [total] * n
    assert REDUCE_SCATTER.sent(n, n * piece) == pytest.approx(scattered * piece)
    assert ALL_GATHER.sent(n, piece) == gathered * piece
    assert ALL_REDUCE.sent(n, n * piece) == pytest.approx((scattered + gathered) * piece)


@given(st.integers(1, 1024), st.integers(0, 10**12))
def test_what_has_a_root_sends_a_copy_to_each_of_the_others(n: int, payload: int) -> None:
    for kind in (BROADCAST, REDUCE, GATHER, SCATTER):
        assert n * kind.sent(n, payload) == pytest.approx((n - 1) * payload)
    assert n * ALL_TO_ALL.sent(n, payload) == pytest.approx((n - 1) * payload)
    assert SEND.sent(n, payload) == payload


def test_every_operator_that_carries_something_is_known() -> None:
    known = {
        schema.name.partition("::")[2] for schema in torch._C._jit_get_all_schemas() if "c10d::" in schema.name[:6]
    }
    carry_nothing_of_their_own = {"barrier", "monitored_barrier_", "check_for_nan", "recv_", "recv_any_source_"}
    assert known - carry_nothing_of_their_own == set(OPERATORS)


def test_what_is_handed_in_is_the_argument_of_the_schema() -> None:
    for name, (kind, place) in OPERATORS.items():
        argument = getattr(torch.ops.c10d, name).default._schema.arguments[place].name
        assert "output" in argument if kind is SCATTER else "output" not in argument, name


def test_sizes_are_in_bytes() -> None:
    lists = [[torch.ones(3)], [torch.ones(2, 2, dtype=torch.bfloat16), torch.ones(1, dtype=torch.complex64)]]
    assert len(list(flat(lists))) == 3
    assert size(lists) == 12 + 8 + 8
    assert size(torch.eye(5).to_sparse()) == 5 * 4 + 2 * 5 * 8  # values, and a row and a column of each
