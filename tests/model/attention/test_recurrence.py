"""Recurrences in chunks, beside the same token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ablab.model.attention import recurrence
from ablab.model.attention.chunks import Fading
from ablab.model.attention.recurrence import DeltaRule, Recurrence, StateSpace

Kind = Callable[..., Recurrence]
KINDS = (StateSpace, DeltaRule)


def drawn(
    length: int,
    *,
    heads: tuple[int, int] = (2, 2),
    sizes: tuple[int, int] = (5, 6),
    fastest: float = 3.0,
    seed: int = 0,
) -> list[Tensor]:
    """q, k, v, log decays from `-fastest` to 0, and write strengths; keys have length one."""
    generator = torch.Generator().manual_seed(seed)
    (K, H), (D, Dv) = heads, sizes
    q, k, v = (
        torch.randn(2, n, length, size, generator=generator, dtype=torch.float64)
        for n, size in ((K, D), (K, D), (H, Dv))
    )
    decay, write = torch.rand(2, 2, H, length, generator=generator, dtype=torch.float64)
    return [q, torch.nn.functional.normalize(k, dim=-1), v, -fastest * decay**2, write]


def holes(length: int, kind: str | None) -> Tensor | None:
    positions, some = torch.arange(length).expand(2, -1), torch.tensor([[length // 3], [length // 2]])
    generator = torch.Generator().manual_seed(length)
    kinds = {
        "left": positions < some,
        "right": positions >= length - some,
        "between": torch.rand(2, length, generator=generator) < 0.4,
        "everything": positions >= 0,
    }
    return None if kind is None else kinds[kind]


def by_token(
    kind: Kind, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, write: Tensor, padding: Tensor | None
) -> Tensor:
    """The recurrence as it is written down; a token that is none is passed over."""
    B, H, T, Dv = v.shape
    q, k = (x.repeat_interleave(H // x.shape[1], 1) for x in (q, k))
    state, out = v.new_zeros(B, H, k.shape[-1], Dv), []
    for t in range(T):
        faded = log_decay[:, :, t].exp()[..., None, None] * state
        held = torch.einsum("bhdv,bhd->bhv", faded, k[:, :, t]) if kind is DeltaRule else 0.0
        new = write[:, :, t, None] * (v[:, :, t] - held)
        new_state = faded + torch.einsum("bhd,bhv->bhdv", k[:, :, t], new)
        state = new_state if padding is None else torch.where(padding[:, t, None, None, None], state, new_state)
        out.append(torch.einsum("bhdv,bhd->bhv", state, q[:, :, t]))
    return torch.stack(out, 2)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    length=st.sampled_from([1, 2, 7, 16, 31, 65, 96]),
    chunk=st.sampled_from([1, 3, 8, 16, 64]),
    heads=st.sampled_from([(1, 1), (2, 2), (1, 3), (2, 4)]),
    sizes=st.sampled_from([(5, 6), (1, 4), (8, 1)]),
    padded=st.sampled_from([None, "left", "right", "between", "everything"]),
    fastest=st.sampled_from([0.0, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_chunks_give_what_the_tokens_do(
    kind: Kind, length: int, chunk: int, heads: Any, sizes: Any, padded: str | None, fastest: float, seed: int
) -> None:
    inputs = [x.requires_grad_() for x in drawn(length, heads=heads, sizes=sizes, fastest=fastest, seed=seed)]
    padding = holes(length, padded)
    q, k, v, log_decay, write = inputs
    out, expected = kind(chunk=chunk)(*inputs, padding), by_token(kind, q, k, v, log_decay, write, padding)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for ours, theirs in zip(*(torch.autograd.grad(x, inputs, direction) for x in (out, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_segments_hand_their_state_on(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [x.requires_grad_() for x in drawn(50, heads=(1, 2))]
    found = []
    for segment in (1, 3, 100):
        monkeypatch.setattr(recurrence, "SEGMENT", segment)
        out = kind(chunk=4)(*inputs)
        found.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for each in found[:2]:
        for ours, theirs in zip(each, found[2], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_token_might_as_well_not_stand_there(kind: Kind) -> None:
    inputs, padding = drawn(50), holes(50, "between")
    assert padding is not None
    out = kind(chunk=16)(*inputs, padding)
    for row in range(2):
        there = ~padding[row]
        alone = kind(chunk=16)(*(x[row : row + 1, :, there] for x in inputs))
        torch.testing.assert_close(out[row : row + 1, :, there], alone, rtol=1e-12, atol=1e-12)


def errors(kind: Kind, **changes: Any) -> float:
    """The largest, in single precision, of outputs and gradients relative to their size, where much is forgotten at
    once and then little."""
    inputs = drawn(128, **changes)
    inputs[3][:, :, 3:40] = -40.0
    inputs[3][:, :, 40:] = -0.01
    found = []
    for dtype in (torch.float64, torch.float32):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        out = kind(chunk=64)(*leaves)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    relative = [(one - other).abs().max() / one.abs().max() for one, other in zip(*found, strict=True)]
    return torch.stack(relative).max().item()


@pytest.mark.parametrize("kind", KINDS)
def test_fast_decays_cost_no_digits(kind: Kind) -> None:
    assert errors(kind) < 1e-5


class _Quotients(Fading):
    """As it is often written: what is left at one token over what is left at the other."""

    def __init__(self, log_decay: Tensor) -> None:
        super().__init__(log_decay)
        left = log_decay.cumsum(-2).exp()
        self.between = (left / left.mT).tril()


class _Differences(Fading):
    """Differences of sums from the start of the chunk, which are large."""

    def __init__(self, log_decay: Tensor) -> None:
        super().__init__(log_decay)
        left = log_decay.cumsum(-2)
        self.between = (left - left.mT).tril().exp().tril()


@pytest.mark.parametrize("wrong", [_Quotients, _Differences])
@pytest.mark.parametrize("kind", KINDS)
def test_decays_computed_otherwise_would_show(kind: Kind, wrong: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence, "Fading", wrong)
    assert not errors(kind) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_keeps_single_precision_under_autocast(kind: Kind) -> None:
    """A long sum of small parts, of which half precision would lose most."""
    q, k, v = torch.ones(1, 1, 1024, 1), torch.ones(1, 1, 1024, 1), torch.ones(1, 1, 1024, 1)
    decay, write = torch.zeros(1, 1, 1024), torch.full((1, 1, 1024), 1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        out = kind(chunk=64)(q.bfloat16(), k.bfloat16(), v.bfloat16(), decay, write)
    assert out.dtype == torch.bfloat16
    expected = 1.024 if kind is StateSpace else 1 - 0.999**1024
    assert out[0, 0, -1].item() == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(kind: Kind, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype).requires_grad_() for x in drawn(70)]
    single = [x.detach().float().requires_grad_() for x in inputs]
    out, expected = kind(chunk=16)(*inputs), kind(chunk=16)(*single)
    assert torch.equal(out, expected.to(dtype))
    gradients = [
        torch.autograd.grad(x.float().square().sum(), leaves) for x, leaves in ((out, inputs), (expected, single))
    ]
    for half, exact in zip(*gradients, strict=True):
        assert (half.float() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_influences_are_the_matrix_that_mixes_the_values(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence, "VALUES", 16)  # several slices
    q, k, v, decay, write = drawn(45, heads=(1, 2))
    core, positions = kind(chunk=8), torch.tensor([44, 0, 17])
    influence = core.influence(q, k, decay, write, positions)
    assert influence.shape == (2, 2, 3, 45)
    assert not influence[..., torch.arange(45) > positions[:, None]].any()
    torch.testing.assert_close(influence @ v, core(q, k, v, decay, write)[:, :, positions], rtol=1e-12, atol=1e-12)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch says no types here
        self.calls = self.numbers = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operator(*args, **(kwargs or {}))
        self.calls += 1
        self.numbers += made.numel() if isinstance(made, Tensor) and not operator.is_view else 0
        return made


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_done_token_by_token_and_work_grows_as_the_length(kind: Kind) -> None:
    calls, numbers, flops = [], [], []
    for chunks in (4, 8, 16):
        inputs = [x.requires_grad_() for x in drawn(64 * chunks)]
        with _Counting() as counting, FlopCounterMode(display=False) as counter:
            kind(chunk=64)(*inputs).sum().backward()
        calls.append(counting.calls)
        numbers.append(counting.numbers)
        flops.append(counter.get_total_flops())
    assert calls[1] - calls[0] <= 4 * 32  # operators of a chunk
    for each in (numbers, flops):
        assert each[2] - each[1] == pytest.approx(2 * (each[1] - each[0]))
        assert each[2] < 2.2 * each[1]


@pytest.mark.parametrize("kind", KINDS)
def test_flops_in_closed_form(kind: Kind) -> None:
    """Products of a chunk, with heads side by side for the state space; half a product for the triangular system."""
    (K, H), (D, Dv), C, N, B = (2, 4), (8, 16), 32, 5, 2
    with FlopCounterMode(display=False) as counter:
        kind(chunk=C)(*drawn(C * N, heads=(K, H), sizes=(D, Dv)))
    if kind is StateSpace:
        expected = 2 * N * B * (K * C * C * D + H * C * C * Dv + 2 * H * C * D * Dv)
    else:
        overlap, solved, seen = 2 * C * C * D, C * C * (D + Dv) // 2, C * C * Dv
        reads, writes = 2 * C * D * Dv, C * D * Dv
        expected = 2 * B * H * N * (overlap + solved + seen + reads + writes)
    assert counter.get_total_flops() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_nothing_are_refused(kind: Kind) -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        kind(chunk=0)
