"""Windows by FlexAttention: on a CPU by its stand-in, held to the definition; on CUDA by its kernels, to the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import own_if_alone, span_weight, window_mask, without_own, without_padding
from switched import hold, switched_attention, with_slopes
from torch import Tensor

from ablab.model.attention import windowed
from ablab.model.attention.flex.call import using
from ablab.model.attention.flex.rule import Scoring, rule_attention
from ablab.model.attention.local import Local
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.spec import LayerSpec

MakeProblem = Callable[..., Any]
LENGTHS = (1, 5, 127, 128, 129, 200, 300, 385)  # below, at and around one block of FlexAttention's, and several
HEADS = ((1, 1), (2, 2), (4, 2), (3, 1))
PADDINGS = (None, None, "left", "right", "holes", "everything")
WINDOWS = [
    {"window": 1},
    {"window": 20},
    {"window": 500},
    {"window": 9, "dilation": 4},
    {"window": 12, "global_tokens": 5},
    {"window": 3, "dilation": 60, "global_tokens": 130},
]


@pytest.fixture(autouse=True)
def _always_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short sequences are not special."""
    monkeypatch.setattr(windowed, "DENSE_BELOW", 0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    length=st.sampled_from(LENGTHS),
    heads=st.sampled_from(HEADS),
    padded=st.sampled_from(PADDINGS),
    causal=st.booleans(),
    options=st.sampled_from(WINDOWS) | st.builds(dict, window=st.integers(1, 300), dilation=st.sampled_from([1, 1, 3])),
    share_qk=st.booleans(),
    switches=st.sampled_from([{}, {}, {"sinks": True}, {"softcap": 1.5}, {"sinks": True, "softcap": 0.7}]),
    sloping=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]),
)
def test_windows_are_those_of_the_definition(
    make_problem: MakeProblem,
    length: int,
    heads: tuple[int, int],
    padded: str | None,
    causal: bool,
    options: dict[str, Any],
    share_qk: bool,
    switches: dict[str, Any],
    sloping: bool,
    dtype: torch.dtype,
) -> None:
    share_qk = share_qk and heads[0] == heads[1]
    problem = make_problem(length=length, heads=heads, sizes=(8, 4), causal=causal, padded=padded, dtype=dtype)
    core, padding = WindowedAttention(problem.spec, share_qk=share_qk, **switches, **options), problem.padding()
    slopes = with_slopes(core, heads[0]) if sloping else None
    seen = without_padding(window_mask(length, causal=causal, **options)[None, None], padding)
    seen = own_if_alone(without_own(seen), padding) if share_qk else seen
    sinks = [torch.linspace(-1, 1, heads[0], dtype=torch.float32 if dtype == torch.bfloat16 else dtype)]

    def found(q: Tensor, k: Tensor, v: Tensor, *own: Tensor) -> Tensor:
        values = {"sinks": own[0]} if core.sinks is not None else {}
        out: Tensor = torch.func.functional_call(core, values, (q, k, v, padding))
        return out

    def expected(q: Tensor, k: Tensor, v: Tensor, *own: Tensor) -> Tensor:
        left = own[0] if core.sinks is not None else None
        whole: Tensor = switched_attention(q, k, v, seen, softcap=core.softcap, slopes=slopes, sinks=left)
        return whole

    inputs = [*problem.inputs(share_qk=share_qk), *(sinks if core.sinks is not None else [])]
    hold(found, expected, inputs, there=None if padding is None else ~padding)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    length=st.sampled_from(LENGTHS),
    heads=st.sampled_from(HEADS),
    padded=st.sampled_from(PADDINGS),
    causal=st.booleans(),
    window=st.integers(1, 300),
    ramp=st.sampled_from([1.0, 7.3, 40.0]),
    per_query=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_spans_are_those_of_the_definition(
    make_problem: MakeProblem,
    length: int,
    heads: tuple[int, int],
    padded: str | None,
    causal: bool,
    window: int,
    ramp: float,
    per_query: bool,
    dtype: torch.dtype,
) -> None:
    problem = make_problem(length=length, heads=heads, causal=causal, padded=padded, dtype=dtype)
    padding, local = problem.padding(), Local(back=window - 1 if causal else window, ahead=0 if causal else window)
    shape = (2, heads[0], length) if per_query else (heads[0],)
    spans = window * torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    seen = without_padding(window_mask(length, window, causal)[None, None], padding)

    def found(q: Tensor, k: Tensor, v: Tensor, spans: Tensor) -> Tensor:
        scoring = Scoring(spans=spans, ramp=ramp)
        return rule_attention(q, k, v, local, key_padding_mask=padding, scoring=scoring)

    def expected(q: Tensor, k: Tensor, v: Tensor, spans: Tensor) -> Tensor:
        weight = span_weight(length, spans if per_query else spans[None, :, None], ramp)
        whole: Tensor = switched_attention(q, k, v, seen, weight=weight)
        return whole

    hold(found, expected, [*problem.inputs(), spans], there=None if padding is None else ~padding)


def both(core: WindowedAttention, inputs: list[Tensor], padding: Tensor | None, device: str) -> list[Tensor]:
    """The output and the gradients of q, k and v, as they come from `device`."""
    moved = [x.detach().to(device).requires_grad_() for x in inputs]
    there = None if padding is None else padding.to(device)
    out = core.to(device)(*moved, there)
    if there is not None:
        out = out.masked_fill(there[:, None, :, None], 0)
    return [x.cpu() for x in (out, *torch.autograd.grad(out.square().sum(), moved))]


@pytest.mark.slow
@pytest.mark.cuda
@pytest.mark.parametrize("options", WINDOWS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [None, "holes"])
@pytest.mark.parametrize("switches", [{}, {"share_qk": True}, {"sinks": True, "softcap": 2.0}])
def test_outputs_and_gradients_on_cuda_are_those_of_the_cpu(
    make_problem: MakeProblem, options: dict[str, Any], causal: bool, padded: str | None, switches: dict[str, Any]
) -> None:
    share_qk = switches.get("share_qk", False)
    heads = (2, 2) if share_qk else (4, 2)
    problem = make_problem(length=150, heads=heads, sizes=(16, 16), causal=causal, padded=padded, dtype=torch.float32)
    core = WindowedAttention(problem.spec, **switches, **options)
    inputs, padding = problem.inputs(share_qk=share_qk), problem.padding()
    expected, found = (both(core, inputs, padding, device) for device in ("cpu", "cuda"))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() < 2e-3 * theirs.norm()  # CUDA may multiply with fewer bits than the CPU


def test_layers_with_equal_windows_are_compiled_once(make_spec: Callable[..., LayerSpec]) -> None:
    """The rule of a window is a constant of the graph, of which alike layers have the same one."""
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    x = torch.zeros(1, 2, 20, 8)
    cores = [WindowedAttention(make_spec(layer_index=layer), window=5) for layer in (0, 1)]
    try:
        with using("dense"):
            for core in (*cores, WindowedAttention(make_spec(), window=6)):
                core.compile(backend=backend, fullgraph=True)
                core(x, x, x)
    finally:
        torch.compiler.reset()
    assert len(graphs) == 2
