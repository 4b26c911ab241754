from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.activation.dynamic_sparse import DynamicSparse
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]


def inputs(scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(4, 50, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
        ({"target_sparsity": 1.0}, "target_sparsity must lie between 0 and 1 or be null, got 1.0"),
        ({"target_sparsity": 0.9, "scale": 0.0}, "scale=0 cannot be steered"),
    ],
)
def test_options_out_of_range(make_spec: Spec, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicSparse(make_spec(), **({"alpha": 0.9, "initial": 0.0, "scale": 1.0} | option))


def test_each_channel_has_the_threshold_of_its_own_inputs(make_spec: Spec) -> None:
    core = DynamicSparse(make_spec(), alpha=0.5, initial=1.0, scale=2.0, per_channel=True).double()
    x = inputs() * torch.arange(1, 33)
    core(x)
    averages = [0.5 * 1.0 + 0.5 * x[..., unit].abs().mean().item() for unit in range(32)]
    torch.testing.assert_close(core.average.tolist(), averages)
    passed = core.eval()(x)
    for unit, average in enumerate(averages):
        assert torch.equal(passed[..., unit], torch.where(x[..., unit] > 2 * average, x[..., unit], 0.0))
    figures = core.mechanism()
    assert figures["threshold"] == pytest.approx(2 * sum(averages) / 32)
    assert figures["threshold_min"] == pytest.approx(2 * min(averages))
    assert figures["threshold_max"] == pytest.approx(2 * max(averages))


def test_the_share_of_zeros_is_steered_to_its_target(make_spec: Spec) -> None:
    cases = list(itertools.product([0.6, 0.9, 0.98], [False, True]))
    steered: dict[str, Any] = {"alpha": 0.9, "initial": 0.0, "scale": 1.0}
    cores = [
        DynamicSparse(make_spec(), per_channel=per_channel, target_sparsity=target, **steered).double()
        for target, per_channel in cases
    ]
    found: list[list[float]] = []
    for seed in range(1500):  # to all of them the same, which takes as long to draw as to look at
        batch = inputs(3.0, seed)
        found.append([(core(batch) == 0).double().mean().item() for core in cores])
    for case, core, shares in zip(cases, cores, zip(*found, strict=True), strict=True):
        # A share of 6,400 zeros has a standard error of at most 0.007; the mean of 100, of 0.0007.
        assert sum(shares[-100:]) / 100 == pytest.approx(case[0], abs=0.005), case
        reached = core.mechanism()
        core.eval()(inputs(9.0))
        assert core.mechanism() == reached, case


def test_what_was_steered_is_in_the_checkpoint(make_spec: Spec) -> None:
    made = [
        DynamicSparse(make_spec(), alpha=0.9, initial=0.0, scale=1.0, target_sparsity=0.9, per_channel=True).double()
        for _ in range(2)
    ]
    for seed in range(5):
        made[0](inputs(seed=seed))
    made[1].load_state_dict(made[0].state_dict())
    for seed in range(5, 8):
        assert torch.equal(*(core(inputs(seed=seed)) for core in made))
    assert made[0].mechanism() == made[1].mechanism()


def test_microbatches_are_one_batch_and_none_is_no_batch(make_spec: Spec) -> None:
    """A stage of a pipeline tells the layers of the other stages, too, which see nothing."""
    settings: dict[str, Any] = {"alpha": 0.5, "initial": 1.0, "scale": 1.0, "per_channel": True, "target_sparsity": 0.5}
    whole, parted = (DynamicSparse(make_spec(), **settings).double() for _ in range(2))
    before = parted.mechanism()
    parted.begin_microbatches()
    parted.end_microbatches()
    assert parted.mechanism() == before
    parted.begin_microbatches()
    found = [parted(part) for part in inputs().split(1)]
    parted.end_microbatches()
    assert torch.equal(torch.cat(found), whole(inputs()))
    assert parted.mechanism() == pytest.approx(whole.mechanism(), rel=1e-12)
