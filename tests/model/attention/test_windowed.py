from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import masked_attention, own_if_alone, window_mask, without_own, without_padding
from torch import Tensor

from ablab.model.attention import windowed
from ablab.model.attention.dense import DENSE_BELOW
from ablab.model.attention.full import FullAttention
from ablab.model.attention.windowed import WindowedAttention

Agree = Callable[..., None]
Problems = Any  # see conftest
MakeProblem = Callable[..., Any]


@pytest.fixture
def always_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short sequences are not special."""
    monkeypatch.setattr(windowed, "DENSE_BELOW", 0)


def mask(problem: Any, options: dict[str, Any], share_qk: bool = False) -> Tensor:
    """Who sees whom: (B or 1, 1, T, T)."""
    padding = problem.padding()
    seen = without_padding(window_mask(problem.length, causal=problem.causal, **options)[None, None], padding)
    both: Tensor = own_if_alone(without_own(seen), padding) if share_qk else seen
    return both


def check(agree: Agree, problem: Any, options: dict[str, Any], share_qk: bool = False) -> None:
    core = WindowedAttention(problem.spec, share_qk=share_qk, **options)
    seen = mask(problem, options, share_qk)
    agree(core, problem, lambda q, k, v: masked_attention(q, k, v, seen), share_qk=share_qk)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    data=st.data(),
    window=st.integers(1, 200),
    global_tokens=st.sampled_from([0, 0, 1, 2, 5, 70]),
    dilation=st.sampled_from([1, 1, 2, 3, 7, 100]),
    share_qk=st.booleans(),
    dense_below=st.sampled_from([0, 0, 0, DENSE_BELOW]),
)
def test_outputs_and_gradients_are_those_of_the_definition(
    agree: Agree,
    problems: Problems,
    data: st.DataObject,
    window: int,
    global_tokens: int,
    dilation: int,
    share_qk: bool,
    dense_below: int,
) -> None:
    problem = data.draw(problems)
    options = {"window": window, "global_tokens": global_tokens, "dilation": dilation}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windowed, "DENSE_BELOW", dense_below)
        check(agree, problem, options, share_qk and len(set(problem.heads)) == 1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("length", "options"),
    [
        (64, {"window": 63}),
        (65, {"window": 64}),
        (128, {"window": 64}),
        (129, {"window": 65}),
        (191, {"window": 1}),
        (257, {"window": 100}),
        (331, {"window": 330}),
        (257, {"window": 9, "dilation": 4}),
        (257, {"window": 20, "global_tokens": 65}),
        (129, {"window": 3, "dilation": 64, "global_tokens": 3}),
    ],
)
@pytest.mark.usefixtures("either_kernel", "always_sparse")
def test_on_both_sides_of_the_block(
    agree: Agree, make_problem: MakeProblem, length: int, options: dict[str, Any], causal: bool
) -> None:
    check(agree, make_problem(length=length, causal=causal, heads=(4, 2), padded="right"), options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(64, 64), (64, 32), (24, 40)])
@pytest.mark.usefixtures("either_kernel", "always_sparse")
def test_wide_heads(agree: Agree, make_problem: MakeProblem, sizes: tuple[int, int], dtype: torch.dtype) -> None:
    check(agree, make_problem(length=150, sizes=sizes, layout="transposed", dtype=dtype), {"window": 40})


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [None, "holes"])
@pytest.mark.parametrize("share_qk", [True, False])
@pytest.mark.parametrize(("length", "window"), [(1, 1), (70, 70), (70, 500), (300, 300)])
def test_a_window_that_holds_everything_is_full_attention(
    make_problem: MakeProblem, causal: bool, padded: str | None, share_qk: bool, length: int, window: int
) -> None:
    """To the last bit."""
    problem = make_problem(length=length, causal=causal, padded=padded, dtype=torch.float32)
    inputs = problem.inputs(share_qk=share_qk)
    outputs = [
        core(*inputs, problem.padding())
        for core in (
            WindowedAttention(problem.spec, window=window, share_qk=share_qk),
            FullAttention(problem.spec, share_qk=share_qk),
        )
    ]
    assert torch.equal(*outputs)
    gradients = [torch.autograd.grad(out.square().sum(), inputs) for out in outputs]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("share_qk", [True, False])
@pytest.mark.parametrize(
    ("length", "options"),
    [
        (100, {"window": 33}),
        (100, {"window": 1}),
        (7, {"window": 100}),
        (40, {"window": 3, "dilation": 5}),
        (40, {"window": 2, "dilation": 2, "global_tokens": 3}),
    ],
)
def test_visited_is_the_definition(
    make_problem: MakeProblem, length: int, options: dict[str, Any], share_qk: bool, causal: bool
) -> None:
    problem = make_problem(length=length, causal=causal)
    q, k, _ = problem.inputs(share_qk=share_qk)
    positions = torch.tensor([length - 1, 0, length // 2])
    visited = WindowedAttention(problem.spec, share_qk=share_qk, **options).visited(q, k, positions)
    assert torch.equal(visited.expand(1, 1, 3, length), mask(problem, options, share_qk)[:, :, positions])


def saved_elements(core: WindowedAttention, problem: Any) -> int:
    """Elements that backward keeps."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        core(*problem.inputs())
    return total


@pytest.mark.parametrize("options", [{}, {"global_tokens": 4}, {"dilation": 3}])
@pytest.mark.usefixtures("always_sparse")
def test_memory_grows_with_the_length_and_not_with_its_square(
    make_problem: MakeProblem, options: dict[str, Any]
) -> None:
    once, twice, eightfold = (
        saved_elements(WindowedAttention(problem.spec, window=32, **options), problem)
        for problem in (make_problem(length=length) for length in (256, 512, 2048))
    )
    assert 1.9 * once <= twice <= 2.1 * once
    assert 7.6 * once <= eightfold <= 8.4 * once


@pytest.mark.parametrize(
    ("padded", "options"), [(None, {}), ("left", {}), (None, {"dilation": 2}), ("holes", {"global_tokens": 3})]
)
@pytest.mark.usefixtures("always_sparse")
def test_its_operators_are_what_pytorch_expects(
    check_operators: Callable[..., set[str]], make_problem: MakeProblem, padded: str | None, options: dict[str, Any]
) -> None:
    problem = make_problem(length=90, padded=padded, layout="transposed")
    assert len(check_operators(WindowedAttention(problem.spec, window=10, **options), problem)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"window": 1, "dilation": 0}, "dilation must be at least 1, got 0"),
        ({"window": 1, "global_tokens": -1}, "global_tokens must be at least 0, got -1"),
    ],
)
def test_options_out_of_range(make_problem: MakeProblem, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowedAttention(make_problem().spec, **options)


def test_each_layer_can_have_a_window_of_its_own(build: Callable[..., Any], load_option: Callable[..., Any]) -> None:
    """What a position learns of: through the upper layer's window, and of each of these through the lower one's."""
    option = load_option("attention", "windowed", window=[2, 5])
    model = build(attention=option, n_layers=2).double()
    tokens = torch.zeros(1, 16, dtype=torch.long)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
        before = model(tokens)
        for place in range(16):
            changed = tokens.clone()
            changed[0, place] = 1
            moved = (model(changed) != before).any(-1)[0].nonzero().flatten().tolist()
            assert moved == list(range(place, min(place + 6, 16)))  # 4 through the upper layer, 1 through the lower


def test_as_many_windows_as_layers(build: Callable[..., Any], load_option: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"window=\[2, 4, 8\]: give one for each of the 2 layers"):
        build(attention=load_option("attention", "windowed", window=[2, 4, 8]), n_layers=2)
