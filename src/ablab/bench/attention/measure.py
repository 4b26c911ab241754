"""The run: at each length every implementation is checked, its memory measured, and all are timed in turn."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ablab.bench.attention.cost import (
    Clock,
    MatmulPeak,
    Times,
    available_bytes,
    foresee,
    in_turn,
    once,
    peak_bytes,
    repetitions,
    scores_bytes,
)
from ablab.bench.attention.definitions import WrongResultError, check
from ablab.bench.attention.implementation import Attention, Implementation, Pass, Setting
from ablab.bench.attention.results import Results, cell, first_line

SPARE = 0.7  # the share of the free memory that a call may be foreseen to take


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure."""

    rounds: int = 30  # repetitions at most
    budget_s: float = 3.0  # for the repetitions of one implementation in one pass at one length
    longest_call_s: float = 30.0  # what is foreseen to take longer is skipped
    clock: Clock = "wall"


class _SkippedError(Exception):
    """The reason."""


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """Checked and measured, but for its time."""

    implementation: Implementation
    call: Callable[[], object]
    seconds: float  # one call, roughly
    bytes: int
    keys: float  # that a query sees


def measure(
    implementations: Sequence[Implementation],
    setting: Setting,
    *,
    lengths: Sequence[int],
    passes: Sequence[Pass],
    effort: Effort,
    results: Results,
    peak: MatmulPeak,
    say: Callable[[str], None] = lambda _: None,
    after_length: Callable[[], None] = lambda: None,
) -> None:
    """Fill `results`, shortest length first. What does not work is skipped, and its cell says why.

    Args:
        say: is told what comes next.
        after_length: is called once all of a length is in `results`.
    """
    for length in sorted(lengths):
        peak.measure()
        drawn = {first: setting.draw(length, heads_first=first) for first in (False, True)}
        for pass_ in passes:
            say(f"{length:,} {pass_}: checking")
            ready = []
            for each in implementations:
                tensors = drawn[each.heads_first]
                try:
                    ready.append(_prepare(each, setting, length, pass_, effort, results, tensors))
                except _SkippedError as reason:
                    results.cells.append(cell(each, pass_, length, skipped=str(reason)))
            say(f"{length:,} {pass_}: timing {len(ready)} implementations")
            _time(ready, setting, length, pass_, effort, results)
            del ready
        after_length()


def _time(
    ready: Sequence[_Ready], setting: Setting, length: int, pass_: Pass, effort: Effort, results: Results
) -> None:
    calls = {each.implementation.name: each.call for each in ready}
    counts = {each.implementation.name: repetitions(each.seconds, effort.rounds, effort.budget_s) for each in ready}
    seconds: dict[str, list[float]] = {}
    try:
        in_turn(calls, counts, setting.device, seconds, effort.clock)
    finally:  # what was timed before an interrupt is kept
        for each in ready:
            if each.implementation.name in seconds:
                times = Times.of(seconds[each.implementation.name])
                flops = needed_flops(setting, length, pass_, each.keys)
                found = cell(each.implementation, pass_, length, times=times, peak_bytes=each.bytes, flops=flops)
                results.cells.append(found)


def needed_flops(setting: Setting, length: int, pass_: Pass, keys: float) -> float:
    """FLOPs that the definition needs: two products per score, and four more for its gradients (none twice)."""
    products = 2 if pass_ == "forward" else 6
    return products * 2 * setting.batch * setting.width * length * keys


def _prepare(
    implementation: Implementation,
    setting: Setting,
    length: int,
    pass_: Pass,
    effort: Effort,
    results: Results,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
) -> _Ready:
    backward = pass_ == "forward_backward"
    if backward and implementation.no_backward:
        raise _SkippedError(implementation.no_backward)
    _foresee(implementation, setting, length, pass_, effort, results)
    try:
        attention = implementation.build(setting, length)
        keys = check(attention, *tensors, backward=backward)
        call = _call(attention, *tensors, backward=backward)
        memory = peak_bytes(call, setting.device)
        seconds = once(call, setting.device, effort.clock)
        if seconds > effort.longest_call_s:
            raise _SkippedError(f"one call took {seconds:.0f} s, more than {effort.longest_call_s:g} s")
    except _SkippedError:
        raise
    except WrongResultError as error:
        raise _SkippedError(str(error)) from None
    except (MemoryError, torch.OutOfMemoryError):
        raise _SkippedError("out of memory") from None
    except Exception as error:  # a peer may raise whatever it likes
        raise _SkippedError(first_line(error)) from None
    finally:
        gc.collect()
    return _Ready(implementation=implementation, call=call, seconds=seconds, bytes=memory, keys=keys)


def _foresee(
    implementation: Implementation, setting: Setting, length: int, pass_: Pass, effort: Effort, results: Results
) -> None:
    seconds = foresee(results.seconds(implementation.name, pass_), length)
    if seconds is not None and seconds > effort.longest_call_s:
        raise _SkippedError(f"one call would take about {seconds:.0f} s, more than {effort.longest_call_s:g} s")
    memory = foresee(results.bytes(implementation.name, pass_), length) or 0.0
    if implementation.quadratic_memory:
        memory = max(memory, scores_bytes(setting, length))
    free = available_bytes(setting.device)
    if memory > SPARE * free:
        raise _SkippedError(f"one call would take about {memory / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free")


def _call(
    attention: Attention, q: Tensor, k: Tensor, v: Tensor, grad: Tensor, *, backward: bool
) -> Callable[[], object]:
    if not backward:
        return partial(_forward, attention, q, k, v)
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    return partial(_forward_backward, attention, q, k, v, grad)


def _forward(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with torch.no_grad():
        return attention(q, k, v)


def _forward_backward(attention: Attention, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of all three; where queries and keys are shared, those of the keys are part of the queries'."""
    out = attention(q, k, v)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        out, (q, k, v, *attention.parameters), grad, allow_unused=True
    )
    return found
