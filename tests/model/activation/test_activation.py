from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.activation.dynamic_sparse import DynamicSparse
from ablab.model.activation.gelu import GELU
from ablab.model.activation.relu import ReLU
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]


def inputs(scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(4, 50, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_relu_and_gelu_are_their_formulas(make_spec: Spec) -> None:
    values = [-3.0, -0.5, 0.0, 0.5, 3.0]
    x = torch.tensor(values, dtype=torch.float64)
    assert ReLU(make_spec())(x).tolist() == [0.0, 0.0, 0.0, 0.5, 3.0]
    expected = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in values]
    torch.testing.assert_close(GELU(make_spec())(x).tolist(), expected, rtol=1e-12, atol=1e-15)


@settings(max_examples=30, deadline=None)
@given(
    alpha=st.floats(0, 0.99),
    initial=st.floats(0, 5),
    scale=st.floats(0, 3),
    sizes=st.lists(st.floats(0.1, 10), min_size=1, max_size=6),
)
def test_threshold_is_the_closed_form_of_its_average(
    make_spec: Spec, alpha: float, initial: float, scale: float, sizes: list[float]
) -> None:
    core = DynamicSparse(make_spec(), alpha=alpha, initial=initial, scale=scale).double()
    batches = [inputs(size, seed) for seed, size in enumerate(sizes)]
    n = len(batches)
    for done, batch in enumerate(batches):
        # A batch meets what came before it: alpha^n initial + (1 - alpha) sum alpha^(n - 1 - i) mean_i.
        average = alpha**done * initial
        average += (1 - alpha) * sum(alpha ** (done - 1 - i) * batches[i].abs().mean().item() for i in range(done))
        kept = [value if value > scale * average else 0.0 for value in batch.flatten().tolist()[:200]]
        torch.testing.assert_close(core(batch).flatten()[:200].tolist(), kept)
    average = alpha**n * initial + (1 - alpha) * sum(
        alpha ** (n - 1 - i) * batches[i].abs().mean().item() for i in range(n)
    )
    assert core.mechanism()["threshold"] == pytest.approx(scale * average, rel=1e-5)


def test_starts_as_relu_and_ends_with_the_share_of_a_normal_tail(make_spec: Spec) -> None:
    core = DynamicSparse(make_spec(), alpha=0.5, initial=0.0, scale=1.0).double()
    x = inputs()
    assert torch.equal(core(x), torch.relu(x))
    for _ in range(40):
        core(x)
    tail = 0.5 * math.erfc(math.sqrt(2 / math.pi) / math.sqrt(2))  # P(x > E|x|) for a normal x
    assert (core(x) != 0).double().mean().item() == pytest.approx(tail, abs=0.025)  # five standard errors


def test_recovers_from_a_start_so_high_that_nothing_passes(make_spec: Spec) -> None:
    core, x = DynamicSparse(make_spec(), alpha=0.9, initial=100.0, scale=1.0).double(), inputs()
    assert not core(x).any()
    for _ in range(100):
        core(x)
    assert core(x).any()


def test_evaluation_leaves_the_threshold_alone_and_checkpoints_carry_it(make_spec: Spec) -> None:
    core, other = (DynamicSparse(make_spec(), alpha=0.9, initial=1.0, scale=2.0).double() for _ in range(2))
    core(inputs(3))
    threshold = core.mechanism()
    core.eval()(inputs(9))
    assert core.mechanism() == threshold
    other.load_state_dict(core.state_dict())
    assert torch.equal(other.eval()(inputs(2)), core(inputs(2)))


def test_gradient_flows_where_it_passes_and_nowhere_else(make_spec: Spec) -> None:
    core, x = DynamicSparse(make_spec(), alpha=0.9, initial=1.0, scale=1.0).double(), inputs().requires_grad_()
    core(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (x > 1).double())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"alpha": 1.0}, "alpha must be at least 0 and below 1, got 1.0"),
        ({"initial": -1.0}, "initial must be at least 0, got -1.0"),
        ({"scale": -0.1}, "scale must be at least 0, got -0.1"),
    ],
)
def test_options_out_of_range(make_spec: Spec, option: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicSparse(make_spec(), **({"alpha": 0.9, "initial": 0.0, "scale": 1.0} | option))
