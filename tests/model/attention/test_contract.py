"""What every option of the axis promises (`ablab.model.attention.base`), whichever it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import Tensor

from ablab.config import conf_folder
from ablab.model.attention import windowed
from ablab.model.attention.base import AttentionCore, repeat_heads
from ablab.model.attention.layer import AttentionLayer, attention_layer
from ablab.model.initialisation import initialise
from ablab.model.spec import LayerSpec

MakeProblem = Callable[..., Any]
Core = Callable[..., AttentionCore]
Layer = Callable[..., AttentionLayer]

OPTIONS = conf_folder() / "attention"
TARGETS = {path.stem: get_object(OmegaConf.load(path)._target_) for path in sorted(OPTIONS.glob("*.yaml"))}
CORES = sorted(name for name, made in TARGETS.items() if isinstance(made, type) and issubclass(made, AttentionCore))
# So small that they bite at the lengths below; an option takes those that its YAML has.
SMALL = {"window": 5, "bucket_size": 4, "rounds": 2, "ramp": 3.0, "block": 4, "keys": 3, "dense_below": 0}
OWN_SMALL = {"selected": {"keys": 12}}  # whole blocks
LENGTH = 70
# Options of whose gradients graphs are traced in tests of their own, which takes several times as long.
COMPILED_ELSEWHERE = {
    *("block_sparse", "dynamic", "full", "lsh", "mla", "nsa", "selected", "topk", "windowed"),
    "pattern",  # is made of others
}
HALF = {torch.bfloat16: 0.05, torch.float16: 0.01}


@pytest.fixture(autouse=True)
def _short_sequences_are_not_special(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windowed, "DENSE_BELOW", 0)


MakeOption = Callable[..., Any]


@pytest.fixture
def make_option(load_option: Callable[..., Any]) -> MakeOption:
    """make_option(name, spec, dropout=0.1, ...): what the option's YAML makes, at sizes that bite."""

    def make(name: str, spec: LayerSpec, **changes: Any) -> Any:
        has = load_option("attention", name).keywords
        small = {key: value for key, value in SMALL.items() if key in has}
        return load_option("attention", name, **(small | OWN_SMALL.get(name, {}) | changes))(spec)

    return make


@pytest.fixture(params=CORES)
def make_core(request: pytest.FixtureRequest, make_option: MakeOption) -> Core:
    """make_core(problem, ...): a core, in the problem's dtype."""

    def make(problem: Any, **changes: Any) -> AttentionCore:
        core: AttentionCore = make_option(request.param, problem.spec, **changes).to(problem.dtype)
        return core

    return make


@pytest.fixture
def make_layer(attention_option: str, make_option: MakeOption) -> Layer:
    """make_layer(spec): the layer of an option, in double precision."""

    def make(spec: LayerSpec, **changes: Any) -> AttentionLayer:
        layer = attention_layer(spec, lambda spec: make_option(attention_option, spec, **changes))
        initialise(layer, seed=0)
        return layer.double()

    return make


@pytest.fixture
def spec(make_spec: Callable[..., LayerSpec]) -> Callable[..., LayerSpec]:
    return lambda **changes: make_spec(**({"max_length": 512} | changes))


def stream(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unrotated(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return q, k


def gradients(out: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out.square().sum(), leaves, allow_unused=True, materialize_grads=True)


# Every option, as a layer.


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7, 65, 300])
def test_any_length_gives_finite_outputs_and_gradients(
    make_layer: Layer, spec: Callable[..., LayerSpec], length: int, causal: bool
) -> None:
    layer, x = make_layer(spec(causal=causal)), stream(2, length).requires_grad_()
    out = layer(x, unrotated)
    assert out.shape == x.shape
    leaves = [x, *layer.parameters()]
    assert all(gradient.isfinite().all() for gradient in (out, *gradients(out, leaves)))


@pytest.mark.parametrize("padded", [False, True])
def test_earlier_outputs_do_not_hear_of_later_tokens(
    make_layer: Layer, spec: Callable[..., LayerSpec], padded: bool
) -> None:
    layer, x = make_layer(spec()), stream(2, LENGTH)
    padding = torch.arange(LENGTH).expand(2, -1) % 7 == 3 if padded else None
    before = layer(x, unrotated, padding)
    for place in (1, 33, LENGTH - 1):
        changed = x.clone()
        changed[:, place:] = stream(2, LENGTH - place, seed=place) * 3
        after = layer(changed, unrotated, padding)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
        assert not torch.allclose(after[:, place:], before[:, place:])


@pytest.mark.parametrize("causal", [True, False])
def test_padding_does_not_matter_and_breaks_nothing(
    make_layer: Layer, spec: Callable[..., LayerSpec], causal: bool
) -> None:
    layer, x = make_layer(spec(causal=causal)), stream(3, LENGTH)
    positions = torch.arange(LENGTH)
    padding = torch.stack([positions < 9, positions % 3 == 1, positions >= 0])
    changed = torch.where(padding.unsqueeze(-1), stream(3, LENGTH, seed=1) * 100, x).requires_grad_()
    out = layer(changed, unrotated, padding)
    assert out.isfinite().all()
    torch.testing.assert_close(out[~padding], layer(x, unrotated, padding)[~padding], rtol=1e-9, atol=1e-12)
    assert all(gradient.isfinite().all() for gradient in gradients(out, [changed, *layer.parameters()]))
    (reached,) = torch.autograd.grad(layer(changed, unrotated, padding)[~padding].square().sum(), changed)
    assert not reached[padding].any()


def test_a_sequence_does_not_depend_on_its_place_in_the_batch(
    make_layer: Layer, spec: Callable[..., LayerSpec]
) -> None:
    layer, x = make_layer(spec()), stream(3, LENGTH)
    out = layer(x, unrotated)
    torch.testing.assert_close(layer(x.flip(0), unrotated).flip(0), out, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(x[1:2], unrotated), out[1:2], rtol=0, atol=1e-12)


def test_evaluation_is_deterministic_and_training_a_function_of_the_step(
    make_layer: Layer, spec: Callable[..., LayerSpec]
) -> None:
    layer, x = make_layer(spec()), stream(2, LENGTH)

    def at(step: int) -> Tensor:
        each: Any
        for each in layer.modules():
            if hasattr(each, "resample"):
                each.resample(step)
        out: Tensor = layer(x, unrotated)
        return out

    once = at(3)
    layer.eval()
    assert torch.equal(at(3), at(4))
    layer.train()
    at(4)
    assert torch.equal(at(3), once)


def test_any_number_of_threads_gives_the_same(make_layer: Layer, spec: Callable[..., LayerSpec]) -> None:
    """Outputs to the last bit; gradients to rounding, since PyTorch's fused kernel itself promises no more."""
    layer, x = make_layer(spec()), stream(2, 300).requires_grad_()
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            out = layer(x, unrotated)
            found.append((out, *gradients(out, [x])))
    finally:
        torch.set_num_threads(threads)
    (out, *gradient), (other_out, *other_gradient) = found
    assert torch.equal(out, other_out)
    torch.testing.assert_close(gradient, other_gradient, rtol=1e-12, atol=1e-12)


def test_compiles_in_one_graph(attention_option: str, make_layer: Layer, spec: Callable[..., LayerSpec]) -> None:
    layer, x = make_layer(spec()), stream(2, LENGTH).requires_grad_()
    backend = "eager" if attention_option in COMPILED_ELSEWHERE else "aot_eager"
    padding = torch.arange(LENGTH).expand(2, -1) < 5
    torch.compiler.reset()
    found = []
    for function in (layer, torch.compile(layer, fullgraph=True, backend=backend)):
        out = function(x, unrotated, padding)
        found.append((out, *gradients(out, [x, *layer.parameters()])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_needs_no_numbers_to_be_measured(make_layer: Layer, spec: Callable[..., LayerSpec]) -> None:
    """On the meta device, where floating-point operations are counted."""
    layer = make_layer(spec()).to("meta")
    x = torch.empty(2, LENGTH, 16, dtype=torch.float64, device="meta")
    assert layer(x, unrotated).shape == x.shape


# Every core. Options that are layers of their own have none for any queries, keys and values.


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


@pytest.mark.parametrize("layout", ["transposed", "expanded", "strided"])
def test_memory_may_lie_in_any_way(make_core: Core, make_problem: MakeProblem, layout: str) -> None:
    problem = make_problem(length=LENGTH, layout=layout)
    inputs = problem.inputs()
    straight = [x.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for x in inputs]
    core = make_core(problem)
    out, expected = core(*inputs), core(*straight)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(gradients(out, inputs), gradients(expected, straight), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", list(HALF))
def test_half_precision_stays_near_single(
    make_core: Core, make_problem: MakeProblem, dtype: torch.dtype, causal: bool
) -> None:
    problem = make_problem(length=LENGTH, dtype=dtype, causal=causal, padded="left")
    inputs, padding = problem.inputs(), problem.padding()
    single = [x.detach().float().requires_grad_() for x in inputs]
    out, expected = make_core(problem)(*inputs, padding), make_core(problem).float()(*single, padding)
    assert out.dtype == dtype
    assert out.isfinite().all()
    tokens = ~padding[:, None, :, None]
    torch.testing.assert_close(out.float() * tokens, expected * tokens, rtol=HALF[dtype], atol=HALF[dtype])
    for half, exact in zip(gradients(out * tokens, inputs), gradients(expected * tokens, single), strict=True):
        assert half.dtype == dtype
        assert (half.float() - exact).norm() < 2 * HALF[dtype] * exact.norm()


def test_autocast(make_core: Core, make_problem: MakeProblem) -> None:
    problem = make_problem(length=LENGTH, dtype=torch.float32)
    core, inputs = make_core(problem), problem.inputs()
    expected = core(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = core(*inputs)
        half = core(*(x.bfloat16() for x in inputs))
    assert half.dtype == torch.bfloat16
    assert out.dtype in (torch.bfloat16, torch.float32)
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    for ours, theirs in zip(gradients(out.float(), inputs), gradients(expected, inputs), strict=True):
        assert (ours - theirs).norm() < 0.1 * theirs.norm()


def extreme(kind: str, problem: Any) -> list[Tensor]:
    q, k, v = (x.detach().clone() for x in problem.inputs())
    if kind == "large":
        q, k = q * 300, k * 100
    elif kind == "same keys":
        k = k[:, :, :1].expand_as(k).clone()
    else:
        q = torch.zeros_like(q)
    return [x.requires_grad_() for x in (q, k, v)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["large", "same keys", "no query"])
@pytest.mark.parametrize("padded", [None, "sequence"])
def test_extreme_scores(
    make_core: Core, make_problem: MakeProblem, kind: str, padded: str | None, dtype: torch.dtype
) -> None:
    problem = make_problem(length=LENGTH, padded=padded, dtype=dtype)
    core, inputs = make_core(problem).eval(), extreme(kind, problem)
    out = core(*inputs, problem.padding())
    assert all(found.isfinite().all() for found in (out, *gradients(out, inputs)))
    if padded is None:
        q, k, v = (x.detach() for x in inputs)
        if kind == "large":
            assert (q @ k.transpose(-1, -2)).abs().max() > 1e5
        expected = core.weights(q, k, torch.arange(LENGTH)) @ v
        # The weights of large scores hang on the last bits of each score.
        tolerance = 1e-9 if dtype == torch.float64 else 0.02 if kind == "large" else 1e-5
        torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("length", [20, 300])
def test_a_diverged_model_shows_in_the_output_and_raises_nothing(
    make_core: Core, make_problem: MakeProblem, length: int, bad: float
) -> None:
    problem = make_problem(length=length, dtype=torch.float32)
    core = make_core(problem)
    for parameter in core.parameters():
        parameter.data.fill_(bad)
    q, k, v = ((x.detach() * bad).requires_grad_() for x in problem.inputs())
    out = core(q, k, v)
    assert not out.isfinite().all()
    gradients(out, [q, k, v])


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_those_of_differences(make_core: Core, make_problem: MakeProblem, causal: bool) -> None:
    problem = make_problem(length=8, batch=1, sizes=(4, 4), heads=(2, 1), causal=causal)
    assert torch.autograd.gradcheck(make_core(problem), problem.inputs(), fast_mode=True)


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
