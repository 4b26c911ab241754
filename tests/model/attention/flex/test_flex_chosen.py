"""Patterns, and attention to what is chosen, by FlexAttention's stand-in: held to the definitions and to the CPU's way.

The ways of a CPU are held to their definitions, query by query, in tests of their own. Here sequences are longer than
one block of FlexAttention's, so that what is left out of a block mask shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from equations import fill
from hypothesis import given, settings
from hypothesis import strategies as st
from switched import TOLERANCE, hold, near, switched_attention
from torch import Tensor
from torch.nn.attention.flex_attention import AuxOutput, flex_attention

from ablab.model.attention import block_sparse, selected_core, windowed
from ablab.model.attention.block_sparse import BlockSparseAttention
from ablab.model.attention.compressed import CompressedSparseAttention, HeavilyCompressedAttention
from ablab.model.attention.dsa import DeepSeekSparseAttention
from ablab.model.attention.flex import call
from ablab.model.attention.flex.call import using
from ablab.model.attention.flex.chosen import packed, unpacked
from ablab.model.attention.nsa import NativeSparseAttention
from ablab.model.attention.selected import SelectedAttention
from ablab.model.context import unrotated
from ablab.model.spec import LayerSpec

MakeProblem = Callable[..., Any]
Spec = Callable[..., LayerSpec]

PATTERNS: list[dict[str, Any]] = [
    {"block": 16, "local_blocks": 2, "stride": 0},
    {"block": 16, "stride": 5},
    {"block": 50, "stride": 3, "fixed": True},
    {"block": 128, "local_blocks": 1, "stride": 2, "global_blocks": 1},
    {"block": 20, "stride": 0, "random_blocks": 2, "global_blocks": 1},
]
LAYERS: list[tuple[type[Any], dict[str, Any]]] = [
    (
        NativeSparseAttention,
        {"compress_block": 16, "compress_stride": 8, "select_block": 16, "selected_blocks": 5, "window": 20},
    ),
    (SelectedAttention, {"granularity": "block", "scorer": "pooled", "keys": 60, "block": 20, "window": 15}),
    (SelectedAttention, {"granularity": "block", "scorer": "indexer", "keys": 64, "block": 32, "index_heads": 2}),
    (SelectedAttention, {"granularity": "token", "scorer": "pooled", "keys": 20, "block": 1, "local_blocks": 2}),
    (DeepSeekSparseAttention, {"keys": 25, "index_heads": 2}),
    (CompressedSparseAttention, {"block": 4, "window": 30, "keys": 9, "index_heads": 2}),
    (HeavilyCompressedAttention, {"block": 16, "window": 40}),
]


@pytest.fixture(autouse=True)
def _always_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short sequences are not special."""
    monkeypatch.setattr(windowed, "DENSE_BELOW", 0)
    monkeypatch.setattr(block_sparse, "DENSE_BELOW", 0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    pattern=st.sampled_from(PATTERNS),
    length=st.sampled_from([1, 40, 128, 150, 300]),
    heads=st.sampled_from([(2, 2), (4, 2)]),
    causal=st.booleans(),
    share_qk=st.booleans(),
    padded=st.sampled_from([None, "left", "holes", "everything"]),
    switches=st.sampled_from([{}, {"sinks": True}, {"softcap": 1.5}]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_patterns_are_those_of_the_definition(
    make_problem: MakeProblem,
    pattern: dict[str, Any],
    length: int,
    heads: tuple[int, int],
    causal: bool,
    share_qk: bool,
    padded: str | None,
    switches: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    share_qk = share_qk and heads[0] == heads[1]
    problem = make_problem(length=length, heads=heads, causal=causal, padded=padded, dtype=dtype)
    core, padding = BlockSparseAttention(problem.spec, share_qk=share_qk, **switches, **pattern), problem.padding()
    q, k, v = problem.inputs(share_qk=share_qk)
    seen = core.visited(q, k, torch.arange(length))  # held to the patterns as they read in its own tests
    if padding is not None or share_qk:
        own, there = torch.eye(length, dtype=torch.bool), torch.ones(2, length, dtype=torch.bool)
        there = (there if padding is None else ~padding)[:, None, None]
        seen = BlockSparseAttention(problem.spec, **pattern).visited(q, k, torch.arange(length)) & there
        others = seen & ~own
        seen = others | (own & there & ~others.any(-1, keepdim=True)) if share_qk else seen
    sinks = (
        [] if core.sinks is None else [torch.linspace(-1, 1, heads[0], dtype=torch.promote_types(dtype, torch.float32))]
    )

    def found(q: Tensor, k: Tensor, v: Tensor, *own: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(core, {"sinks": own[0]} if own else {}, (q, k, v, padding))
        return out

    def expected(q: Tensor, k: Tensor, v: Tensor, *own: Tensor) -> Tensor:
        whole: Tensor = switched_attention(q, k, v, seen, softcap=core.softcap, sinks=own[0] if own else None)
        return whole

    hold(found, expected, [q, k, v, *sinks], there=None if padding is None else ~padding)


def outcome(layer: Any, x: Tensor, padding: Tensor | None) -> list[Tensor]:
    """The output where there are tokens, what the layer asks for beside the loss, and the gradients of both."""
    x = x.detach().requires_grad_()
    out = layer(x, unrotated, padding)
    out = out if padding is None else out.masked_fill(padding.unsqueeze(-1), 0)
    learning = getattr(layer.core, "learning", None)
    penalty = torch.zeros(()) if learning is None else learning.penalty()
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    total = (out * direction.to(out.dtype)).sum() + penalty
    return [out, penalty, *torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)]


@settings(max_examples=28, deadline=None, derandomize=True)
@given(
    option=st.sampled_from(LAYERS),
    length=st.sampled_from([3, 128, 200, 290]),
    causal=st.booleans(),
    grouped=st.booleans(),
    padded=st.sampled_from([None, None, 0.1, 0.5]),
    switches=st.sampled_from([{}, {"sinks": True}, {"softcap": 30.0}]),
    warming=st.booleans(),
    sliced=st.booleans(),
)
def test_what_is_chosen_is_attended_as_on_a_cpu(
    make_spec: Spec,
    option: tuple[type[Any], dict[str, Any]],
    length: int,
    causal: bool,
    grouped: bool,
    padded: float | None,
    switches: dict[str, Any],
    warming: bool,
    sliced: bool,
) -> None:
    made, options = option
    grouped = grouped and not issubclass(made, CompressedSparseAttention | HeavilyCompressedAttention)
    spec = make_spec(n_heads=4, n_kv_heads=2 if grouped else None, d_model=32, causal=causal, max_length=300)
    layer: Any = made(spec, **options, **switches).double()
    fill(layer)
    learning = getattr(layer.core, "learning", None)
    if learning is not None and warming:
        learning.warmup_steps = 1
    generator = torch.Generator().manual_seed(length)
    x = (
        torch.randn(2, length, 32, generator=generator, dtype=torch.float64) / 4
    )  # scores far below their bound: no ties
    padding = None if padded is None else torch.rand(2, length, generator=generator) < padded
    expected = outcome(layer, x, padding)
    with pytest.MonkeyPatch.context() as patch, using("dense"):
        if sliced:
            for name in ("choosing", "entries", "native"):
                patch.setattr(f"ablab.model.attention.flex.{name}.SLICE", 5000)
        found = outcome(layer, x, padding)
    for ours, theirs in zip(found, expected, strict=True):
        near(ours, theirs, TOLERANCE[torch.float64])


@pytest.mark.parametrize(("made", "options"), LAYERS)
def test_in_single_and_half_precision(make_spec: Spec, made: type[Any], options: dict[str, Any]) -> None:
    """Far from ties, so that the same is chosen: every block that is past."""
    many = {"keys": 320, "selected_blocks": 20}
    options = options | {name: value for name, value in many.items() if name in options}
    torch.manual_seed(0)  # of single precision a worst case is not asked
    layer: Any = made(make_spec(d_model=32, n_heads=4, max_length=300), **options)
    x = torch.randn(2, 200, 32, generator=torch.Generator().manual_seed(0))
    with using("dense"):
        single = outcome(layer, x, None)
        with torch.autocast("cpu", torch.bfloat16):
            half = outcome(layer, x, None)
    exact = outcome(layer.double(), x.double(), None)
    for mine, rough, theirs in zip(single, half, exact, strict=True):
        near(mine, theirs, TOLERANCE[torch.float32])
        near(rough, theirs, 5e-2)


@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 100)), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_choice_is_kept_bit_by_bit(shape: tuple[int, int], seed: int) -> None:
    chosen = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    words = packed(chosen)
    assert words.shape == (shape[0], -(-shape[1] // 32))
    assert torch.equal(unpacked(words, shape[1]), chosen)


def test_long_sequences_bring_queries_to_blocks(make_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are many times more blocks than are seen."""
    monkeypatch.setattr(selected_core, "FLEX_BELOW", 2)
    monkeypatch.setattr(selected_core, "ROUTE_FROM", 2)
    layer: Any = SelectedAttention(make_spec(max_length=200), granularity="block", scorer="pooled", keys=8, block=4)
    fill(layer.double())

    def refuse(*args: Any, **settings: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(layer.core, "_by_flex", refuse)
    x = torch.randn(1, 100, 16, dtype=torch.float64)
    expected = outcome(layer, x, None)
    with using("dense"):
        for ours, theirs in zip(outcome(layer, x, None), expected, strict=True):
            near(ours, theirs, 1e-9)


def test_dropped_weights_go_another_way(make_spec: Spec) -> None:
    """FlexAttention knows no dropout."""
    cases: list[tuple[type[Any], dict[str, Any]]] = [
        (BlockSparseAttention, {"block": 16}),
        (DeepSeekSparseAttention, {"keys": 5, "index_heads": 2}),
    ]
    for made, options in cases:
        layer: Any = made(make_spec(max_length=300), **options, dropout=0.5, dropout_on="weights")
        inputs: tuple[Any, ...] = tuple(torch.randn(1, 2, 40, 8) for _ in range(3))
        if made is DeepSeekSparseAttention:
            inputs = torch.randn(1, 40, 16), unrotated
        with using("dense"):
            outs = [layer.train()(*inputs) for _ in range(2)]
            assert not torch.equal(*outs)
            assert torch.equal(*[layer.eval()(*inputs) for _ in range(2)])


# PyTorch's compiler warns of what it does itself.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize(("made", "options"), LAYERS)
def test_what_stands_around_the_calls_compiles(
    make_spec: Spec, monkeypatch: pytest.MonkeyPatch, made: type[Any], options: dict[str, Any]
) -> None:
    """In one graph each, and computes the same.

    Traced, forward and back, and not made into C++: half a minute for each, and some of it PyTorch 2.13 cannot.
    """

    def flex(q: Tensor, k: Tensor, v: Tensor, *, block_mask: Any, score_mod: Any, scale: float, **others: Any) -> Any:
        out, lse = call.dense(q, k, v, block_mask.mask_mod, block_mask, score_mod, scale)
        return out, AuxOutput(lse=lse)

    compiled: dict[Any, Any] = {flex_attention: flex}

    def made_compiled(function: Any) -> Any:
        if function not in compiled:
            compiled[function] = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)
        return compiled[function]

    monkeypatch.setattr(call, "_made_compiled", made_compiled)
    layer: Any = made(make_spec(d_model=32, n_heads=4, max_length=300), sinks=True, **options)
    x = torch.randn(2, 200, 32, generator=torch.Generator().manual_seed(0))
    with using("dense"):
        expected = outcome(layer, x, None)
    with using("compiled"):
        found = outcome(layer, x, None)
    assert len(compiled) > 2
    for mine, theirs in zip(found, expected, strict=True):
        near(mine, theirs, TOLERANCE[torch.float32])
