"""Layers of a kind, compared and then timed in turn, at each length."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ablab.bench.attention.cost import CLOCKS, Clock
from ablab.bench.attention.implementation import PASSES, Pass
from ablab.bench.attention.results import first_line
from ablab.bench.layers.pair import Kind, Layer, Sizes

TOLERANCE = 1e-3  # of the largest number, of outputs and of the input's gradient, in single precision
WARM_UP = 1  # rounds that are not counted


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How to measure."""

    rounds: int = 15
    clock: Clock = "wall"


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One layer in one pass at one length: seconds of each round, or why there are none."""

    kind: str
    linear: bool
    layer: str
    ours: bool
    pass_: Pass
    length: int
    seconds: tuple[float, ...] = ()
    error: float | None = None  # beside ours, of the largest number; None of ours, and of what has other weights
    skipped: str = ""

    @property
    def median_s(self) -> float:
        return median(self.seconds)


class InRounds(Protocol):
    """What was timed in rounds that others took part in."""

    @property
    def seconds(self) -> Sequence[float]: ...


@dataclass(frozen=True)
class Ratio:
    """Ours over another, round by round: the median, and the middle half."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: InRounds, other: InRounds) -> Ratio:
        each = np.array(ours.seconds) / np.array(other.seconds)
        low, middle, high = np.quantile(each, [0.25, 0.5, 0.75])
        return cls(float(middle), float(low), float(high))


class DifferentError(Exception):
    """A peer does not give what ours gives; the message says by how much."""


def measure(
    kinds: Iterable[Kind], sizes: Sizes, lengths: Sequence[int], passes: Sequence[Pass], effort: Effort
) -> Iterator[list[Timed]]:
    """Yield what was timed of one kind at one length."""
    for kind in kinds:
        for length in sorted(set(lengths)):
            layers, skipped = _ready(kind, sizes, length)
            found = [
                Timed(
                    kind=kind.name, linear=kind.linear, layer=name, ours=False, pass_=each, length=length, skipped=why
                )
                for name, why in skipped.items()
                for each in passes
            ]
            for each in passes:
                found += _timed(kind, layers, sizes, length, each, effort)
            yield found
            gc.collect()


def _ready(kind: Kind, sizes: Sizes, length: int) -> tuple[list[Layer], dict[str, str]]:
    """Ours and the peers that there are, and why others are not."""
    own = kind.ours(sizes, length)
    call = kind.call(own, sizes, length)
    layers = [Layer(name=kind.name, ours=True, call=call, parameters=tuple(own.parameters()))]
    skipped = {}
    for name, make in kind.peers.items():
        try:
            layers.append(make(own, sizes, length))
        except ModuleNotFoundError:
            skipped[name] = "transformers is not installed; pip install 'ablab[bench]' brings it"
        except Exception as error:  # a peer may raise whatever it likes
            skipped[name] = first_line(error)
    return layers, skipped


def _timed(
    kind: Kind, layers: Sequence[Layer], sizes: Sizes, length: int, pass_: Pass, effort: Effort
) -> Iterator[Timed]:
    backward = pass_ == "forward_backward"
    x, direction = (_drawn(sizes, length, seed) for seed in range(2))
    reference = _outcome(layers[0], x, direction, backward)
    calls: dict[str, Callable[[], object]] = {}
    errors: dict[str, float | None] = {}
    skipped: dict[str, str] = {}
    for layer in layers:
        try:
            errors[layer.name] = None if layer.ours else _compare(layer, reference, x, direction, kind.alike)
            calls[layer.name] = _call(layer, x, direction, backward)
        except Exception as error:  # as above
            skipped[layer.name] = str(error) if isinstance(error, DifferentError) else first_line(error)
    seconds = in_rounds(calls, effort)
    for layer in layers:
        yield Timed(
            kind=kind.name, linear=kind.linear, layer=layer.name, ours=layer.ours, pass_=pass_, length=length,
            seconds=tuple(seconds.get(layer.name, ())), error=errors.get(layer.name),
            skipped=skipped.get(layer.name, ""),
        )  # fmt: skip


def in_rounds(
    calls: dict[str, Callable[[], object]], effort: Effort, after: Mapping[str, Callable[[], object]] | None = None
) -> dict[str, list[float]]:
    """Seconds of each call in each round. Who comes first changes: it finds what the round before has left.

    Args:
        after: what makes ready for the next round what a call has changed, outside of its time.
    """
    now, names = CLOCKS[effort.clock], list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(WARM_UP + effort.rounds):
        first = turn % max(1, len(names))
        gc.collect()
        for name in names[first:] + names[:first]:
            started = now()
            kept = calls[name]()
            taken = now() - started
            del kept
            if turn >= WARM_UP:
                seconds[name].append(taken)
            if after is not None:
                after[name]()
    return seconds


def _drawn(sizes: Sizes, length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * length + seed)
    return torch.randn(sizes.batch, length, sizes.width, generator=generator)


def _call(layer: Layer, x: Tensor, direction: Tensor, backward: bool) -> Callable[[], object]:
    if not backward:
        return torch.no_grad()(lambda: layer.call(x))
    leaf = x.clone().requires_grad_()
    leaves = (leaf, *layer.parameters)
    return lambda: torch.autograd.grad(layer.call(leaf), leaves, direction, allow_unused=True)


def _outcome(layer: Layer, x: Tensor, direction: Tensor, backward: bool) -> list[Tensor]:
    """What it gives, and with `backward` the gradient of what it was given."""
    leaf = x.clone().requires_grad_(backward)
    with torch.set_grad_enabled(backward):
        out = layer.call(leaf)
    return [out.detach(), *(torch.autograd.grad(out, leaf, direction) if backward else ())]


def _compare(layer: Layer, reference: list[Tensor], x: Tensor, direction: Tensor, alike: float) -> float | None:
    """The largest difference at the share `alike` of the tokens that differ least.

    Raises:
        DifferentError: it is too large.
    """
    found = _outcome(layer, x, direction, len(reference) > 1)
    if not layer.comparable:
        return None
    pairs = zip(found, reference, strict=True)
    error = max(float((one - other).abs().amax(-1).quantile(alike) / other.abs().max()) for one, other in pairs)
    if not error <= TOLERANCE:
        raise DifferentError(f"gives something else: off by {error:.1e} of the largest number")
    return error


def exponent(rows: Iterable[Timed], start: int) -> float | None:
    """The slope of log time over log length from `start` tokens on, by least squares; None with fewer than two."""
    points = [(row.length, row.median_s) for row in rows if row.length >= start and row.seconds]
    if len(points) < 2:
        return None
    lengths, seconds = zip(*points, strict=True)
    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])


def passes_of(rows: Iterable[Timed]) -> list[Pass]:
    """That there are, in their order."""
    found = {row.pass_ for row in rows}
    return [each for each in PASSES if each in found]
