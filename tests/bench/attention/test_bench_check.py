"""What the check before timing lets pass, and what it does not: causal attention, spoilt in one place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ablab.bench.attention import definitions
from ablab.bench.attention.definitions import WrongResultError, check, sample
from ablab.bench.attention.implementation import Attention, Expected, Setting

LENGTH = 48
TENSORS = Setting(heads=2, head_size=8).draw(LENGTH, heads_first=True)

Spoil = Callable[[Tensor], Tensor]


class Causal(Attention):
    def __init__(self, spoil: Spoil = lambda out: out, detached: int | None = None) -> None:
        self.spoil, self.detached = spoil, detached

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.detach() if n == self.detached else x for n, x in enumerate((q, k, v)))
        return self.spoil(scaled_dot_product_attention(q, k, v, is_causal=True))

    def expected(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Expected:
        return definitions.weighted(q, k, v, positions, definitions.everything(positions, LENGTH, causal=True))


@pytest.mark.parametrize("backward", [False, True])
def test_what_is_right_passes_and_says_how_many_keys_it_sees(backward: bool) -> None:
    keys = check(Causal(), *TENSORS, backward=backward)
    assert keys == pytest.approx((sample(LENGTH) + 1).double().mean().item())  # query i sees i + 1 of them


def row(position: int, factor: float) -> Spoil:
    factors = torch.ones(LENGTH, 1)
    factors[position] = factor
    return lambda out: out * factors


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (row(LENGTH - 1, 1.01), "wrong output: off naive attention by .*, where .* is allowed"),
        (row(0, 1.5), "wrong output of queries that see one key: "),  # the first query has but its own
        (lambda out: torch.stack([out[:, 0], out[:, 1].roll(1, dims=-1)], dim=1), "wrong output: "),  # one head
    ],
)
def test_wrong_outputs(spoil: Spoil, message: str) -> None:
    with pytest.raises(WrongResultError, match=message):
        check(Causal(spoil), *TENSORS, backward=False)


@pytest.mark.parametrize(("detached", "name"), [(0, "queries"), (1, "keys"), (2, "values")])
def test_a_gradient_that_is_missing(detached: int, name: str) -> None:
    wrong = Causal(detached=detached)
    check(wrong, *TENSORS, backward=False)  # its output is right
    with pytest.raises(WrongResultError, match=f"wrong gradient of the {name}"):
        check(wrong, *TENSORS, backward=True)
