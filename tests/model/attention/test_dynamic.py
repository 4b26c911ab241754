from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import (
    dynamic_weight,
    full_mask,
    lsh_mask,
    masked_attention,
    own_if_alone,
    without_own,
    without_padding,
)
from torch import Tensor

from ablab.model.attention import band, hashed, hashing
from ablab.model.attention.dense import GPU_SLICES, at_once
from ablab.model.attention.dynamic import DynamicAttention
from ablab.model.attention.lsh import LSHAttention
from ablab.model.attention.windowed import WindowedAttention

Agree = Callable[..., None]
Problems = Any  # see conftest
MakeProblem = Callable[..., Any]


def make(problem: Any, **options: Any) -> DynamicAttention:
    """With parameters away from where they start: heads, and with `span_per_query` queries, differ in their spans."""
    core = DynamicAttention(problem.spec, **({"rounds": 2, "bucket_size": 8, "ramp": 4.0} | options))
    generator = torch.Generator().manual_seed(problem.seed)
    for parameter in core.parameters():
        # Small, so that spans keep away from 0 and the window, where rounding in single precision would decide whether
        # the soft edge still reaches the next key.
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 4
    return core.to(problem.dtype)


def spans_of(q: Tensor, window: int, offset: Tensor, direction: Tensor | None = None) -> Tensor:
    """window * sigmoid(b + u q): (1, H, 1), or (B, H, T) where there is a direction."""
    shift = 0 if direction is None else (direction[:, None, :] * q).sum(-1)
    return window * (offset[None, :, None] + shift).sigmoid()


def reference(
    core: DynamicAttention, problem: Any, *, ramp: float, share_qk: bool, hashed: Tensor | None
) -> Callable[..., Tensor]:
    padding, T, window = problem.padding(), problem.length, core.window

    def attention(q: Tensor, k: Tensor, v: Tensor, *parameters: Tensor) -> Tensor:
        spans = spans_of(q, window, *parameters) if parameters else None
        weight = dynamic_weight(T, window, problem.causal, spans=spans, ramp=ramp, hashed=hashed)
        seen = without_padding((weight > 0).expand(problem.batch, problem.heads[0], T, T), padding)
        if share_qk:
            seen = own_if_alone(without_own(seen), padding)
        out: Tensor = masked_attention(q, k, v, seen, weight)
        return out

    return attention


def check(agree: Agree, problem: Any, *, share_qk: bool = False, **options: Any) -> None:
    core = make(problem, share_qk=share_qk, **options)
    hashed = None
    if options.get("adapt_position", True):
        q, k, _ = problem.inputs(share_qk=share_qk)
        assert core.hash is not None
        hashed = lsh_mask(core.hash(q), core.hash(k), core.hash.bucket_size, problem.causal, problem.padding())
    ramp = options.get("ramp", 4.0)
    agree(
        core,
        problem,
        reference(core, problem, ramp=ramp, share_qk=share_qk, hashed=hashed),
        share_qk=share_qk,
    )


ADAPTS = ((True, True), (True, True), (True, False), (False, True))  # size and position


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    data=st.data(),
    window=st.integers(1, 200),
    adapts=st.sampled_from(ADAPTS),
    ramp=st.sampled_from([0.5, 1.0, 3.7, 32.0, 150.0]),
    span_per_query=st.booleans(),
    rounds=st.integers(1, 4),
    bucket_size=st.sampled_from([1, 2, 3, 7, 16, 64, 400]),
    hashing=st.sampled_from([(None, False), (1, False), (2, False), (8, False), (None, True), (4, True)]),
    share_qk=st.booleans(),
)
def test_outputs_and_gradients_are_those_of_the_definition(
    agree: Agree,
    problems: Problems,
    data: st.DataObject,
    window: int,
    adapts: tuple[bool, bool],
    ramp: float,
    span_per_query: bool,
    rounds: int,
    bucket_size: int,
    hashing: tuple[int | None, bool],
    share_qk: bool,
) -> None:
    problem = data.draw(problems)
    check(
        agree,
        problem,
        window=window,
        adapt_size=adapts[0],
        adapt_position=adapts[1],
        ramp=ramp,
        span_per_query=span_per_query and adapts[0],
        rounds=rounds,
        bucket_size=bucket_size,
        buckets=hashing[0],
        factored=hashing[1],
        share_qk=share_qk and len(set(problem.heads)) == 1,
    )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("adapts", sorted(set(ADAPTS)))
@pytest.mark.parametrize(("length", "window"), [(65, 64), (129, 20), (257, 100), (331, 128)])
@pytest.mark.usefixtures("either_kernel")
def test_on_both_sides_of_the_block(
    agree: Agree, make_problem: MakeProblem, length: int, window: int, adapts: tuple[bool, bool], causal: bool
) -> None:
    problem = make_problem(length=length, causal=causal, padded="right", layout="transposed")
    options = {"adapt_size": adapts[0], "adapt_position": adapts[1], "span_per_query": adapts[0] and causal}
    check(agree, problem, window=window, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(64, 64), (64, 32), (24, 40)])
@pytest.mark.usefixtures("either_kernel")
def test_wide_heads(agree: Agree, make_problem: MakeProblem, sizes: tuple[int, int], dtype: torch.dtype) -> None:
    check(agree, make_problem(length=150, sizes=sizes, heads=(4, 2), dtype=dtype), window=30, span_per_query=True)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("adapts", sorted(set(ADAPTS)))
@pytest.mark.parametrize("share_qk", [True, False])
def test_visited_and_weights_are_the_definition(
    make_problem: MakeProblem, causal: bool, adapts: tuple[bool, bool], share_qk: bool
) -> None:
    problem = make_problem(length=90, causal=causal)
    size, position = adapts
    core = make(problem, window=12, adapt_size=size, adapt_position=position, span_per_query=size, share_qk=share_qk)
    q, k, _ = problem.inputs(share_qk=share_qk)
    hashed = None if core.hash is None else lsh_mask(core.hash(q), core.hash(k), 8, causal)
    definition = reference(core, problem, ramp=4.0, share_qk=share_qk, hashed=hashed)
    identity = torch.eye(90, dtype=q.dtype).expand(2, 2, 90, 90)
    expected = definition(q, k, identity, *core.parameters())  # with the identity as values, the weights themselves
    positions = torch.tensor([89, 0, 44])
    torch.testing.assert_close(core.weights(q, k, positions), expected[:, :, positions], rtol=1e-9, atol=1e-9)
    visited = core.visited(q, k, positions)
    assert visited.dtype == torch.bool
    assert torch.equal(visited.expand(2, 2, 3, 90), expected[:, :, positions] > 0)


@pytest.mark.parametrize("span_per_query", [True, False])
def test_spans_are_what_the_parameters_say(make_problem: MakeProblem, span_per_query: bool) -> None:
    problem = make_problem(heads=(4, 2))
    core, (q, _, _) = make(problem, window=50, span_per_query=span_per_query), problem.inputs()
    shapes = [tuple(parameter.shape) for parameter in core.parameters()]
    assert shapes == [(4,), (4, 8)][: 2 if span_per_query else 1]
    expected = spans_of(q, 50, *core.parameters()).expand(2, 4, 40)
    torch.testing.assert_close(core.spans(q).expand(2, 4, 40), expected)
    assert len({round(span, 6) for span in expected.flatten().tolist()}) == (2 * 4 * 40 if span_per_query else 4)


@pytest.mark.parametrize("span_per_query", [True, False])
@pytest.mark.parametrize(("initial_span", "expected"), [(None, 25.0), (10.0, 10.0), (49.5, 49.5)])
def test_the_span_to_start_with(
    make_problem: MakeProblem, initial_span: float | None, expected: float, span_per_query: bool
) -> None:
    problem = make_problem()
    core = DynamicAttention(
        problem.spec,
        window=50,
        initial_span=initial_span,
        span_per_query=span_per_query,
        rounds=1,
        bucket_size=4,
    )
    spans = core.spans(problem.inputs()[0].float()).expand(2, 2, 40)
    torch.testing.assert_close(spans, torch.full((2, 2, 40), expected))


@pytest.mark.parametrize("span_per_query", [True, False])
def test_the_penalty_is_on_the_mean_span(make_problem: MakeProblem, span_per_query: bool) -> None:
    problem = make_problem()
    core = make(problem, window=50, span_per_query=span_per_query, span_penalty=0.3)
    inputs = problem.inputs()
    core(*inputs)
    modules: list[Any] = list(core.modules())
    penalties = [m.penalty() for m in modules if hasattr(m, "penalty")]
    assert len(penalties) == 1
    mean = spans_of(inputs[0], 50, *core.parameters()).expand(2, 2, 40).mean()
    torch.testing.assert_close(penalties[0], 0.3 * mean)
    for mine, other in zip(
        torch.autograd.grad(penalties[0], list(core.parameters())),
        torch.autograd.grad(0.3 * mean, list(core.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


def test_without_a_size_there_is_no_parameter_and_no_penalty(make_problem: MakeProblem) -> None:
    core = make(make_problem(), window=5, adapt_size=False)
    assert not list(core.parameters())
    assert not any(hasattr(module, "penalty") for module in core.modules())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("share_qk", [True, False])
def test_a_span_as_wide_as_the_window_is_the_window(make_problem: MakeProblem, causal: bool, share_qk: bool) -> None:
    problem = make_problem(length=300, causal=causal, padded="holes")
    core = make(problem, window=20, adapt_position=False, share_qk=share_qk)
    for parameter in core.parameters():
        parameter.data.fill_(40)  # the sigmoid's upper end
    inputs, padding = problem.inputs(share_qk=share_qk), problem.padding()
    expected = WindowedAttention(problem.spec, window=20, share_qk=share_qk)(*inputs, padding)
    tokens = ~padding[:, None, :, None]
    torch.testing.assert_close(core(*inputs, padding) * tokens, expected * tokens, rtol=1e-12, atol=1e-12)


def test_hashing_is_that_of_lsh(make_problem: MakeProblem) -> None:
    """A swap of the options changes no rotation; a window of one leaves hashing almost alone."""
    problem = make_problem(length=100)
    q, k, v = problem.inputs()
    lsh = LSHAttention(problem.spec, rounds=2, bucket_size=8)
    core = make(problem, window=1, adapt_size=False)
    for step in (None, 4):
        if step is not None:
            lsh.resample(step)
            core.resample(step)
        assert core.hash is not None
        assert torch.equal(core.hash(q), lsh.hash(q))
        seen = lsh_mask(lsh.hash(q), lsh.hash(k), 8, True) | torch.eye(100, dtype=torch.bool)
        torch.testing.assert_close(core(q, k, v), masked_attention(q, k, v, seen), rtol=1e-9, atol=1e-9)


def test_one_bucket_that_is_seen_whole_leaves_nothing_out(make_problem: MakeProblem) -> None:
    """Every key once: locally or by hash."""
    problem = make_problem(length=150)
    q, k, v = problem.inputs()
    core = make(problem, window=30, adapt_size=False, bucket_size=400, buckets=1, rounds=3)
    torch.testing.assert_close(core(q, k, v), masked_attention(q, k, v, full_mask(150, True)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("adapt_size", [True, False])
def test_short_sequences_see_all_keys_beyond_the_window_where_that_is_asked_for(
    agree: Agree, make_problem: MakeProblem, causal: bool, adapt_size: bool
) -> None:
    problem = make_problem(length=30, causal=causal, padded="holes")
    core = make(problem, window=6, adapt_size=adapt_size, dense_below=31)
    everything = without_own(full_mask(30, causal))
    agree(core, problem, reference(core, problem, ramp=4.0, share_qk=False, hashed=everything))
    hashed_after_all = make(problem, window=6, adapt_size=adapt_size, dense_below=30)
    inputs, padding = problem.inputs(), problem.padding()
    assert not torch.allclose(hashed_after_all(*inputs, padding), core(*inputs, padding))


def test_rotations_of_a_step_and_of_evaluation(make_problem: MakeProblem) -> None:
    problem = make_problem(length=80)
    core, inputs = make(problem, window=5), problem.inputs()
    first, evaluation = core(*inputs), core.eval()(*inputs)
    core.train().resample(9)
    assert not torch.allclose(core(*inputs), first)
    assert torch.equal(core.eval()(*inputs), evaluation)
    core.train().resample(0)
    assert torch.equal(core(*inputs), first)


@pytest.mark.parametrize("adapts", sorted(set(ADAPTS)))
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_those_of_differences(make_problem: MakeProblem, adapts: tuple[bool, bool], causal: bool) -> None:
    problem = make_problem(length=9, batch=1, sizes=(4, 4), causal=causal)
    core = make(problem, window=4, adapt_size=adapts[0], adapt_position=adapts[1], bucket_size=3, ramp=2.3)
    parameters = dict(core.named_parameters())

    def attention(q: Tensor, k: Tensor, v: Tensor, *values: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(core, dict(zip(parameters, values, strict=True)), (q, k, v))
        return out

    assert torch.autograd.gradcheck(attention, (*problem.inputs(), *parameters.values()), fast_mode=True)


def test_memory_grows_with_the_length_and_not_with_its_square(make_problem: MakeProblem) -> None:
    def saved(length: int) -> int:
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        problem = make_problem(length=length)
        core = make(problem, window=20, buckets=16, span_per_query=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            core(*problem.inputs())
        return total

    once = saved(256)
    assert 1.9 * once < saved(512) < 2.1 * once
    assert 7.6 * once < saved(2048) < 8.4 * once


@pytest.mark.parametrize(
    ("padded", "adapts", "span_per_query"),
    [
        (None, (True, True), False),
        ("left", (True, False), False),
        ("holes", (False, True), False),
        (None, (True, True), True),
        ("left", (True, False), True),
    ],
)
def test_its_operators_are_what_pytorch_expects(
    check_operators: Callable[..., set[str]],
    make_problem: MakeProblem,
    padded: str | None,
    adapts: tuple[bool, bool],
    span_per_query: bool,
) -> None:
    problem = make_problem(length=90, padded=padded, layout="transposed")
    options = {"adapt_size": adapts[0], "adapt_position": adapts[1], "span_per_query": span_per_query}
    assert len(check_operators(make(problem, window=10, **options), problem)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"bucket_size": 0}, "bucket_size must be at least 1, got 0"),
        ({"buckets": 3}, "buckets must be 1, an even number or null, got 3"),
        ({"ramp": 0}, "ramp.*0"),
        ({"initial_span": 0}, "initial_span.*0"),
        ({"initial_span": 5}, "initial_span.*5"),
        ({"span_penalty": -0.5}, r"span_penalty.*-0\.5"),
        ({"dense_below": -1}, "dense_below must be at least 0, got -1"),
        ({"adapt_size": False, "adapt_position": False}, "adapt_size.*adapt_position"),
    ],
)
def test_options_out_of_range(make_problem: MakeProblem, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicAttention(make_problem().spec, **({"window": 5, "rounds": 1, "bucket_size": 4} | options))


def test_how_much_is_computed_at_one_time_changes_nothing(
    make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU it is more, since its calls must be large to keep it busy."""
    assert at_once(7, torch.device("cpu")) == 7
    assert at_once(7, torch.device("cuda")) == 7 * GPU_SLICES
    problem = make_problem(batch=2, length=200, padded="left")
    core = make(problem, window=20, span_per_query=True)
    inputs: list[Tensor] = list(problem.inputs())
    padding = problem.padding()
    wanted = [*inputs, *core.parameters()]

    def found() -> list[Tensor]:
        out = core(*inputs, padding)
        return [out, *torch.autograd.grad(out.square().sum(), wanted)]

    expected = found()
    for size in (1, 5000, 2**30):
        for module, name in [
            (band, "PIECE"),
            (band, "BACKWARD_PIECE"),
            (band, "SLICE"),
            (hashed, "SLICE"),
            (hashing, "SLICE"),
        ]:
            monkeypatch.setattr(module, name, size)
        torch.testing.assert_close(found(), expected, rtol=1e-10, atol=1e-10)
