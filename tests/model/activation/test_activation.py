from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ablab.model.activation.stateless import (
    GEGLU,
    GELU,
    ClampedSwiGLU,
    GatedActivation,
    ReLU,
    SiLU,
    SquaredReLU,
    SwiGLU,
    TanhGELU,
    TopK,
)
from ablab.model.feed_forward.base import Dense
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]
VALUES = [-30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0]


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def normal(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def near_normal(x: float) -> float:
    return (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def slope_of_near_normal(x: float) -> float:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2) * (1 - math.tanh(inner) ** 2) / 2


@pytest.mark.parametrize(
    ("activation", "value", "slope"),
    [
        (ReLU, lambda x: max(x, 0.0), lambda x: float(x > 0)),
        (SquaredReLU, lambda x: max(x, 0.0) ** 2, lambda x: 2 * max(x, 0.0)),
        (SiLU, lambda x: x * logistic(x), lambda x: logistic(x) * (1 + x * (1 - logistic(x)))),
        (
            GELU,
            lambda x: x * normal(x),
            lambda x: normal(x) + x * math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
        ),
        (TanhGELU, lambda x: x * near_normal(x), lambda x: near_normal(x) + x * slope_of_near_normal(x)),
    ],
)
def test_values_and_slopes_are_those_of_the_formula(
    make_spec: Spec,
    activation: type[nn.Module],
    value: Callable[[float], float],
    slope: Callable[[float], float],
) -> None:
    x = torch.tensor(VALUES, dtype=torch.float64, requires_grad=True)
    y = activation(make_spec())(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y.tolist(), [value(v) for v in VALUES], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient.tolist(), [slope(v) for v in VALUES], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "gate"), [(SwiGLU, lambda x: x * logistic(x)), (GEGLU, lambda x: x * normal(x))]
)
def test_a_gate_multiplies_the_other_half(
    make_spec: Spec, activation: type[GatedActivation], gate: Callable[[float], float]
) -> None:
    core = activation(make_spec(d_model=4, d_ff=6, bias=False))
    assert (core.inputs, core.width) == (8, 4)
    x = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [[gate(row[i]) * row[4 + i] for i in range(4)] for row in x.tolist()]
    torch.testing.assert_close(core(x).tolist(), expected, rtol=1e-12, atol=1e-14)


def test_bounds_of_a_gate_and_its_values(make_spec: Spec) -> None:
    core = ClampedSwiGLU(make_spec(d_model=4, d_ff=6, bias=False), limit=1.5, alpha=1.702, offset=1.0)
    x = 2 * torch.randn(9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def one(gate: float, value: float) -> float:
        gate = min(gate, 1.5)
        return gate * logistic(1.702 * gate) * (max(-1.5, min(value, 1.5)) + 1)

    expected = [[one(row[i], row[4 + i]) for i in range(4)] for row in x.tolist()]
    assert float(x.min()) < -1.5 < 1.5 < float(x.max())
    torch.testing.assert_close(core(x).tolist(), expected, rtol=1e-12, atol=1e-14)
    free = ClampedSwiGLU(make_spec(d_model=4, d_ff=6, bias=False), limit=100.0, alpha=1.0, offset=0.0)
    torch.testing.assert_close(free(x), SwiGLU(make_spec())(x))
    with pytest.raises(ValueError, match=r"^activation\.limit must be above 0, got 0$"):
        ClampedSwiGLU(make_spec(), limit=0)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(heads=st.integers(1, 8), size=st.integers(4, 64), factor=st.floats(1.5, 8), bias=st.booleans())
def test_a_gated_part_has_as_many_parameters_as_one_without_a_gate(
    make_spec: Spec, heads: int, size: int, factor: float, bias: bool
) -> None:
    d_model = heads * size
    spec = make_spec(d_model=d_model, n_heads=heads, d_ff=round(factor * d_model), bias=bias)
    with torch.device("meta"):
        gated, plain = (
            sum(p.numel() for p in Dense(spec, activation=activation).parameters()) for activation in (SwiGLU, ReLU)
        )
    unit = 3 * d_model + 2 * bias
    assert abs(gated - plain) <= unit / 2
    if d_model >= 64 and factor >= 2:
        assert abs(gated - plain) <= 0.01 * plain


@settings(max_examples=50, deadline=None, derandomize=True)
@given(width=st.integers(1, 40), keep=st.floats(0.01, 1.0), coarse=st.booleans(), seed=st.integers(0, 99))
def test_the_largest_of_each_token_pass_and_no_more(
    make_spec: Spec, width: int, keep: float, coarse: bool, seed: int
) -> None:
    x = torch.randn(3, 4, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if coarse:
        x = x.round() + 5  # ties, and no zero among the inputs
    x.requires_grad_()
    y = TopK(make_spec(d_ff=width), keep=keep)(x)
    count = max(1, round(keep * width))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, (y != 0).double())
    for row, passed in zip(x.detach().view(-1, width), y.detach().view(-1, width), strict=True):
        kept = passed != 0
        assert int(kept.sum()) == count
        assert torch.equal(passed[kept].sort().values, row.sort().values[-count:])
        assert torch.equal(passed[kept], row[kept])


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5])
def test_a_share_out_of_range(make_spec: Spec, keep: float) -> None:
    with pytest.raises(ValueError, match="keep must be above 0 and at most 1"):
        TopK(make_spec(), keep=keep)


def test_gates_come_first_and_values_second(make_spec: Spec) -> None:
    spec = make_spec(d_model=4, n_heads=2, d_ff=6, bias=False)
    part = Dense(spec, activation=SwiGLU).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    gates, values = part.up.weight.chunk(2)

    def act(z: Tensor) -> Tensor:
        return z * z.sigmoid()

    torch.testing.assert_close(part(x), (act(x @ gates.T) * (x @ values.T)) @ part.down.weight.T)


def test_units_that_work_apart_give_alone_what_they_give_among_the_others(
    activation_option: str, make_spec: Spec, load_option: Callable[..., Any]
) -> None:
    """What lets a process hold some of the hidden units (`by_unit`)."""
    core = load_option("activation", activation_option)(make_spec()).eval()
    by_unit = getattr(core, "by_unit", False)
    assert by_unit == (activation_option not in ("topk", "swiglu", "geglu", "clamped_swiglu"))
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    if by_unit:
        alone = torch.cat([core(half) for half in x.chunk(2, -1)], -1)
        torch.testing.assert_close(alone, core(x), rtol=0, atol=1e-6)
