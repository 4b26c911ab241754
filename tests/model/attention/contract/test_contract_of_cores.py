"""What every core promises of who hears of whom, of heads and of dropout.

Options that are layers of their own have none for any queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from promises import CORES, LENGTH, TARGETS, gradients

from ablab.model.attention.base import AttentionCore, repeat_heads
from ablab.model.spec import LayerSpec

MakeProblem = Callable[..., Any]
Core = Callable[..., AttentionCore]
MakeOption = Callable[..., Any]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
def test_weights_and_visited_keys_tell_what_it_does(
    make_core: Core, make_problem: MakeProblem, heads: tuple[int, int], causal: bool
) -> None:
    problem = make_problem(length=LENGTH, heads=heads, causal=causal)
    core = make_core(problem).eval()
    q, k, v = (x.detach() for x in problem.inputs())
    positions = torch.tensor([LENGTH - 1, 0, 1, 40, 17])
    visited, weights = core.visited(q, k, positions), core.weights(q, k, positions)
    assert visited.dtype == torch.bool
    visited = visited.expand(2, heads[0], 5, LENGTH)
    assert weights.shape == visited.shape
    assert not weights[~visited].any()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    if causal:
        assert not visited[torch.arange(LENGTH) > positions[:, None] + torch.zeros_like(visited)].any()
    expected = weights @ repeat_heads(v, heads[0])
    torch.testing.assert_close(core(q, k, v)[:, :, positions], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
def test_a_query_hears_of_the_values_it_visits_and_no_others(
    make_core: Core, make_problem: MakeProblem, causal: bool
) -> None:
    problem = make_problem(length=30, batch=1, heads=(1, 1), causal=causal)
    core, (q, k, v) = make_core(problem).eval(), problem.inputs()
    visited = core.visited(q, k, torch.arange(30)).expand(1, 1, 30, 30)[0, 0]
    for place in (0, 3, 29):
        (reached,) = torch.autograd.grad(core(q, k, v)[:, :, place].sum(), v)
        assert torch.equal(reached[0, 0].any(-1), visited[place])


def test_earlier_outputs_are_the_same_to_the_last_bit(make_core: Core, make_problem: MakeProblem) -> None:
    problem = make_problem(length=200, dtype=torch.float32)
    core, inputs = make_core(problem), [x.detach() for x in problem.inputs()]
    others = [x.detach() * 3 for x in make_problem(length=200, dtype=torch.float32, seed=1).inputs()]
    before = core(*inputs)
    for place in (1, 65, 128, 199):
        after = core(*(torch.cat([x[:, :, :place], y[:, :, place:]], 2) for x, y in zip(inputs, others, strict=True)))
        assert torch.equal(after[:, :, :place], before[:, :, :place])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [None, "left"])
def test_grouped_heads_are_repeated_ones(
    make_core: Core, make_problem: MakeProblem, causal: bool, padded: str | None
) -> None:
    problem = make_problem(length=LENGTH, heads=(4, 2), causal=causal, padded=padded)
    q, k, v = problem.inputs()
    repeated = repeat_heads(k, 4), repeat_heads(v, 4)
    grouped = make_core(problem)(q, k, v, problem.padding())
    apart = make_core(replace(problem, heads=(4, 4)))(q, *repeated, problem.padding())
    torch.testing.assert_close(grouped, apart, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(gradients(grouped, [q, k, v]), gradients(apart, [q, k, v]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("share_qk", [True, False])
@pytest.mark.parametrize("padded", ["left", "holes", "everything"])
def test_padded_keys_and_values_get_no_gradient_from_anybody(
    make_core: Core, make_problem: MakeProblem, padded: str, share_qk: bool, causal: bool
) -> None:
    """Not even from padded queries."""
    problem = make_problem(length=LENGTH, padded=padded, causal=causal)
    inputs, padding = problem.inputs(share_qk=share_qk), problem.padding()
    out = make_core(problem, share_qk=share_qk)(*inputs, padding)
    for gradient in torch.autograd.grad(out, inputs[1:], torch.ones_like(out)):
        assert not gradient.transpose(1, 2)[padding].any()


@pytest.mark.parametrize("causal", [True, False])
def test_shared_queries_and_keys_see_themselves_only_where_alone(
    make_core: Core, make_problem: MakeProblem, causal: bool
) -> None:
    problem = make_problem(length=30, causal=causal)
    core = make_core(problem, share_qk=True).eval()
    q, k, v = (x.detach() for x in problem.inputs(share_qk=True))
    visited = core.visited(q, k, torch.arange(30)).expand(2, 2, 30, 30)
    own = visited.diagonal(dim1=-2, dim2=-1)
    others = visited.sum(-1) - own.int()
    assert torch.equal(own, others == 0)
    assert own[:, :, 0].all() or not causal
    torch.testing.assert_close(core(q, k, v), core.weights(q, k, torch.arange(30)) @ v, rtol=1e-9, atol=1e-9)
    lonely = torch.ones(2, 30, dtype=torch.bool)
    lonely[:, 11] = False
    torch.testing.assert_close(core(q, k, v, lonely)[:, :, 11], v[:, :, 11])


def test_shared_queries_and_keys_need_as_many_heads(make_core: Core, make_problem: MakeProblem) -> None:
    make_core(make_problem())
    with pytest.raises(ValueError, match=r"share_qk=true needs as many heads .*n_kv_heads=2 and model.n_heads=4"):
        make_core(make_problem(heads=(4, 2)), share_qk=True)


def test_dropout_on_the_output(make_core: Core, make_problem: MakeProblem) -> None:
    problem = make_problem(length=LENGTH, sizes=(16, 16))
    core, inputs = make_core(problem, dropout=0.25), [x.detach() for x in problem.inputs()]
    torch.manual_seed(0)
    out, whole = core(*inputs), core.eval()(*inputs)
    bare = make_core(problem).eval()(*inputs)
    assert torch.equal(whole, bare)
    trained = make_core(problem)(*inputs)  # training may hash otherwise than evaluation
    dropped = out == 0
    assert dropped.double().mean() == pytest.approx(0.25, abs=0.03)  # four standard errors
    torch.testing.assert_close(out[~dropped], trained[~dropped] / 0.75)


def test_dropout_on_the_weights_where_there_are_weights(make_core: Core, make_problem: MakeProblem) -> None:
    problem = make_problem(length=LENGTH)
    inputs = [x.detach() for x in problem.inputs()]
    if not make_core(problem).drops_weights:
        with pytest.raises(ValueError, match=r"attention.dropout_on=weights: \w+ never has the attention weights"):
            make_core(problem, dropout=0.25, dropout_on="weights")
        return
    core = make_core(problem, dropout=0.25, dropout_on="weights")
    torch.manual_seed(0)
    draws = torch.stack([core(*inputs) for _ in range(400)])
    whole = core.eval()(*inputs)
    assert not torch.allclose(draws[0], whole)
    assert (draws.mean(0) - whole).norm() < 0.1 * whole.norm()


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
@pytest.mark.parametrize("option", [name for name, made in TARGETS.items() if isinstance(made, type)])
def test_dropout_out_of_range(make_option: MakeOption, option: str, make_problem: MakeProblem, dropout: float) -> None:
    with pytest.raises(ValueError, match=r"attention.dropout must be at least 0 and below 1, got"):
        make_option(option, make_problem().spec, dropout=dropout)


@pytest.mark.parametrize("padded", [None, "holes"])
@pytest.mark.parametrize("share_qk", [False, True])
def test_heads_that_work_apart_give_alone_what_they_give_among_the_others(
    make_core: Core, make_problem: MakeProblem, share_qk: bool, padded: str | None
) -> None:
    """What lets a process hold some of the heads (`AttentionCore.by_head`)."""
    problem = make_problem(heads=(4, 4) if share_qk else (4, 2), length=LENGTH, padded=padded)
    core = make_core(problem, share_qk=share_qk)
    if not core.by_head:
        pytest.skip("it does not say so")
    assert not list(core.parameters())
    q, k, v = problem.inputs(share_qk=share_qk)
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])
    with torch.no_grad():
        for slope in (None, slopes) if core.takes_slopes else (None,):
            if slope is not None:
                core.weigh_down(slope)
            whole = core(q, k, v, problem.padding())
            for half in (0, 1):
                if slope is not None:
                    core.weigh_down(slope.chunk(2)[half])
                alone = core(*(x.chunk(2, 1)[half] for x in (q, k, v)), problem.padding())
                torch.testing.assert_close(alone, whole.chunk(2, 1)[half], rtol=0, atol=1e-9)


def test_most_cores_can_be_shared_out_by_heads(make_option: MakeOption, spec: Callable[..., LayerSpec]) -> None:
    """Those that cannot have weights of each head, or heads that decide together."""
    assert {name for name in CORES if not make_option(name, spec()).by_head} == {"dynamic"}
