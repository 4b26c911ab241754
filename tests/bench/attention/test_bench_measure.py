"""What is checked, skipped, repeated and kept, with implementations made up for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from bench_fakes import Mean, cells, fake
from torch import Tensor

from ablab.bench.attention import cost
from ablab.bench.attention import measure as measure_module
from ablab.bench.attention.cost import CLOCKS, FEWEST, MatmulPeak, Times, in_turn, repetitions
from ablab.bench.attention.definitions import WrongResultError, check, sample
from ablab.bench.attention.implementation import PASSES, Implementation, Pass, Setting
from ablab.bench.attention.measure import Effort, measure, needed_flops
from ablab.bench.attention.results import Cell, Results

SETTING = Setting(heads=2, head_size=4, window=4, chunk=2)
QUICK = Effort(rounds=3, budget_s=0.001)


class NoPeak(MatmulPeak):
    def __init__(self) -> None:
        self.flops_per_second = 1e9

    def measure(self) -> None:
        pass


def run(
    *implementations: Implementation,
    lengths: tuple[int, ...] = (8,),
    passes: tuple[Pass, ...] = ("forward",),
    effort: Effort = QUICK,
    before: list[Cell] | None = None,
    **options: Any,
) -> list[Cell]:
    results = Results([each.name for each in implementations], before or [])
    arguments: dict[str, Any] = {"lengths": lengths, "passes": passes, "effort": effort, "peak": NoPeak()}
    measure(implementations, SETTING, results=results, **(arguments | options))
    return results.sorted()


def test_what_is_right_is_timed() -> None:
    found = run(fake(Mean()), lengths=(16, 8), passes=PASSES)
    assert [(each.length, each.pass_) for each in found] == [(n, pass_) for n in (8, 16) for pass_ in PASSES]
    for each in found:
        assert each.times is not None
        assert 0 < each.times.min_s <= each.times.median_s <= each.times.max_s
        assert each.peak_bytes is not None
        assert each.peak_bytes >= 4 * 8 * each.length
        assert each.flops == needed_flops(SETTING, each.length, each.pass_, each.length)  # all keys are seen


def test_what_is_wrong_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []
    monkeypatch.setattr(measure_module, "in_turn", lambda calls, *_: timed.extend(calls))
    wrong = Mean(lambda out: out + 0.1)
    [found] = run(fake(wrong))
    assert found.skipped.startswith("wrong output: off naive attention by 1.0e-01")
    assert found.times is None
    assert timed == []
    assert wrong.calls == 1


class Detached(Mean):
    """Right outputs, wrong gradients."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().__call__(q, k, v.detach()) + 0 * v


def test_wrong_gradients_are_wrong_where_gradients_are_measured() -> None:
    found = run(fake(Detached()), passes=PASSES)
    assert found[0].times is not None
    assert found[1].skipped.startswith("wrong gradient of the values")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: out[:, :, :, :2], "wrong output: of shape"),
        (lambda out: out * float("nan"), "wrong output: off naive attention by nan"),
    ],
)
def test_other_ways_to_be_wrong(spoil: Callable[[Tensor], Tensor], message: str) -> None:
    q, k, v, grad = SETTING.draw(8, heads_first=True)
    with pytest.raises(WrongResultError, match=message):
        check(Mean(spoil), q, k, v, grad, backward=False)


def test_every_stretch_of_a_sequence_is_looked_at() -> None:
    def wrong_here(position: int) -> Callable[[Tensor], Tensor]:
        return lambda out: out + (torch.arange(out.shape[2]) // 8 == position // 8)[:, None] * 0.1

    q, k, v, grad = SETTING.draw(256, heads_first=True)
    for position in range(0, 256, 8):
        with pytest.raises(WrongResultError):
            check(Mean(wrong_here(position)), q, k, v, grad, backward=False)
    assert sample(1).tolist() == [0, 0, 0]
    assert {0, 99} <= set(sample(100).tolist()) <= set(range(100))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AssertionError("Sequence length (8) needs\nto be"), "AssertionError: Sequence length (8) needs"),
        (MemoryError(), "out of memory"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_what_raises_is_skipped_with_what_it_says(error: Exception, reason: str) -> None:
    bad, good = run(fake(error, "bad"), fake(Mean(), "good"))
    assert bad.skipped == reason
    assert good.times is not None


def test_a_call_that_takes_too_long_is_skipped() -> None:
    [found] = run(fake(Mean()), effort=Effort(longest_call_s=1e-9))
    assert found.skipped == "one call took 0 s, more than 1e-09 s"


def test_a_call_that_would_take_too_long_is_not_made() -> None:
    attention = Mean()
    before = cells("fake", {4: 1.0, 8: 20.0})
    found = run(fake(attention), lengths=(16,), before=before, effort=Effort(longest_call_s=60))
    assert found[-1].skipped == "one call would take about 80 s, more than 60 s"
    assert attention.calls == 0


def test_a_call_that_would_not_fit_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "available_bytes", lambda _: 2**30)
    attention = Mean()
    before = cells("fake", {4: 1e-6}, bytes={4: 2**28})
    assert run(fake(attention), lengths=(8,), before=before)[-1].skipped == (
        "one call would take about 1 GiB, and 1 GiB are free"
    )
    [found] = run(fake(attention, quadratic_memory=True), lengths=(16384,))
    assert found.skipped == "one call would take about 4 GiB, and 1 GiB are free"
    assert attention.calls == 0


def test_no_backward_pass_is_a_reason() -> None:
    forward, both = run(fake(Mean(), no_backward="it has none"), passes=PASSES)
    assert forward.times is not None
    assert both.skipped == "it has none"


def test_what_was_timed_before_an_interrupt_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def interrupted(call: Callable[[], object], device: str, clock: str) -> float:
        calls.append(call)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 1.0

    monkeypatch.setattr(cost, "once", interrupted)
    results = Results(["first", "second"])
    with pytest.raises(KeyboardInterrupt):
        measure(
            [fake(Mean(), "first"), fake(Mean(), "second")],
            SETTING,
            lengths=[8],
            passes=["forward"],
            effort=Effort(),
            results=results,
            peak=NoPeak(),
        )
    assert [(each.implementation, each.times) for each in results.cells] == [
        ("first", Times(1.0, 1.0, 1.0)),
        ("second", Times(1.0, 1.0, 1.0)),
    ]


def test_calls_take_turns_and_rare_ones_are_spread_over_the_rounds() -> None:
    made: list[str] = []
    seconds: dict[str, list[float]] = {}
    in_turn({name: partial(made.append, name) for name in "ab"}, {"a": 6, "b": 2}, "cpu", seconds)
    assert "".join(made) == "aaabaaab"
    assert {name: len(each) for name, each in seconds.items()} == {"a": 6, "b": 2}


def test_the_clock_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 3.0])
    monkeypatch.setitem(CLOCKS, "cpu", lambda: next(times))
    seconds: dict[str, list[float]] = {}
    in_turn({"a": int}, {"a": 1}, "cpu", seconds, "cpu")
    assert seconds == {"a": [2.0]}


def test_repetitions_fit_the_budget() -> None:
    assert repetitions(0.1, 30, 1.05) == 10
    assert repetitions(0.001, 30, 1.0) == 30
    assert repetitions(100.0, 30, 1.0) == FEWEST
    assert repetitions(100.0, 1, 1.0) == 1
    assert Times.of([3.0, 1.0, 2.0, 9.0]) == Times(2.5, 1.0, 9.0)


def test_needed_operations() -> None:
    """Two products of D multiplications and additions for each head, query and key; gradients need twice as many."""
    setting = Setting(batch=3, heads=2, head_size=4)
    assert needed_flops(setting, 10, "forward", 5.5) == 3 * 2 * 10 * 5.5 * 2 * (2 * 4)
    assert needed_flops(setting, 10, "forward_backward", 5.5) == 3 * needed_flops(setting, 10, "forward", 5.5)


def test_both_layouts_hold_the_same_numbers() -> None:
    for one, other in zip(SETTING.draw(8, heads_first=True), SETTING.draw(8, heads_first=False), strict=True):
        assert torch.equal(one, other)
        assert one.is_contiguous()
        assert other.transpose(1, 2).is_contiguous()
