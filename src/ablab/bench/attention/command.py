"""`ablab bench attention`, from its options to what it prints: all implementations that can be had here, measured."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch

from ablab.bench.attention import indexed, ours, recurrent, torch_peers, transformers_peers
from ablab.bench.attention.cost import CLOCKS, Clock, MatmulPeak
from ablab.bench.attention.figure import SUFFIXES, draw
from ablab.bench.attention.implementation import PASSES, Implementation, Missing, Pass, Setting
from ablab.bench.attention.measure import Effort, measure
from ablab.bench.attention.package_peers import flash_attn, local_attention, reformer
from ablab.bench.attention.results import Results, first_line, write
from ablab.bench.attention.tables import lines, render, tables
from ablab.bench.output import check_output
from ablab.errors import UserError
from ablab.training.provenance import machine

# A package may be there and not work with the others that are: whatever its import raises, it is left out.
_PEERS = {
    "local-attention": local_attention,
    "reformer-pytorch": reformer,
    "transformers": transformers_peers.implementations,
    "transformers (linear attention)": recurrent.peers,
}


def catalogue(setting: Setting) -> tuple[list[Implementation], list[Missing]]:
    """The implementations that are there, ours first, and those that are missing, with the reason."""
    found = [
        *ours.implementations(setting),
        *indexed.implementations(setting),
        *recurrent.implementations(setting),
        *torch_peers.implementations(setting),
    ]
    missing = []
    peers = _PEERS | ({"flash-attn": flash_attn} if setting.device == "cuda" else {})
    for name, implementations in peers.items():
        try:
            found += implementations(setting)
        except Exception as error:  # importing a peer may raise whatever it likes
            missing.append(Missing(name, _reason(name, error)))
    return found, missing


def chosen(found: Sequence[Implementation], names: Sequence[str]) -> list[Implementation]:
    """Those named, in the order of the catalogue; all but the extra ones where none is.

    Raises:
        UserError: a name is unknown.
    """
    known = [each.name for each in found]
    for name in names:
        if name not in known:
            raise UserError(f"--implementations {name}: there are {', '.join(known)}")
    return [each for each in found if (each.name in names if names else not each.extra)]


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "not installed" + ("; pip install 'ablab[bench]' brings it" if name in _PEERS else "")
    return f"cannot be imported ({first_line(error)})"


LENGTHS = tuple(2**power for power in range(8, 17))  # 256 to 65,536


@dataclass(frozen=True, kw_only=True)
class Request:
    """The user's request.

    Raises:
        UserError: something in it cannot be.
    """

    setting: Setting
    lengths: Sequence[int]
    implementations: Sequence[str] = ()  # all, where none is named
    passes: Sequence[Pass] = PASSES
    effort: Effort = field(default_factory=Effort)
    threads: int | None = None  # None: as many as torch takes
    json: Path | None = None
    figure: Path | None = None

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise UserError(f"--lengths {' '.join(map(str, self.lengths))}: must be at least 1")
        for pass_ in self.passes:
            if pass_ not in PASSES:
                raise UserError(f"--passes {pass_}: there are {', '.join(PASSES)}")
        if self.effort.rounds < 1:
            raise UserError(f"--rounds {self.effort.rounds}: must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"--threads {self.threads}: must be at least 1")
        if self.effort.clock not in CLOCKS:
            raise UserError(f"--clock {self.effort.clock}: there are {', '.join(CLOCKS)}")
        if self.effort.clock == "cpu" and self.setting.device == "cuda":
            raise UserError("--clock cpu: the processor waits for the GPU; give --device cpu")
        for name in ("budget_s", "longest_call_s"):
            if not getattr(self.effort, name) > 0:
                raise UserError(f"--{name[:-2].replace('_', '-')} {getattr(self.effort, name)}: must be above 0")
        for option, path in (("--json", self.json), ("--figure", self.figure)):
            check_output(path, option)
        if self.figure is not None and self.figure.suffix not in SUFFIXES:
            raise UserError(f"--figure {self.figure}: must end in {' or '.join(SUFFIXES)}")


def request(options: Namespace) -> Request:
    """The command line's options as a request.

    Raises:
        UserError: something in it cannot be.
    """
    return Request(
        setting=Setting(
            batch=options.batch,
            heads=options.heads,
            head_size=options.head_size,
            window=options.window,
            chunk=options.chunk,
            hash_rounds=options.hash_rounds,
            dtype=options.dtype,
            device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        ),
        lengths=[_number(word) for word in _words(options.lengths)] or LENGTHS,
        implementations=_words(options.implementations),
        passes=cast("list[Pass]", _words(options.passes)) or PASSES,
        effort=Effort(
            rounds=options.rounds,
            budget_s=options.budget,
            longest_call_s=options.longest_call,
            clock=options.clock,
        ),
        threads=options.threads,
        json=options.json,
        figure=options.figure,
    )


def _words(given: Sequence[str] | None) -> list[str]:
    """Separated by blanks or by commas."""
    return [word for each in given or () for word in each.split(",") if word]


def _number(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UserError(f"--lengths {word}: not a whole number") from None


def bench_attention(request: Request) -> str:
    """Measure and describe. What was measured is written even if the run is interrupted.

    Raises:
        UserError: an implementation is unknown, or there is no such device.
    """
    setting = request.setting
    if setting.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here")
    found, missing = catalogue(setting)
    selected = chosen(found, request.implementations)
    _warn(missing)
    clock, before = request.effort.clock, torch.get_num_threads()
    results, peak = Results([each.name for each in selected]), MatmulPeak(setting, clock)
    torch.set_num_threads(request.threads or before)
    try:
        _measure(request, selected, results, peak)
        return _description(setting, results, peak, missing, clock)
    finally:
        torch.set_num_threads(before)
        _write(request, results)


def _measure(request: Request, selected: list[Implementation], results: Results, peak: MatmulPeak) -> None:
    def after_length() -> None:
        if request.json is not None:
            write(request.json, results.sorted())

    measure(
        selected,
        request.setting,
        lengths=sorted(set(request.lengths)),
        passes=list(dict.fromkeys(request.passes)),
        effort=request.effort,
        results=results,
        peak=peak,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        after_length=after_length,
    )


def _write(request: Request, results: Results) -> None:
    if request.json is not None:
        write(request.json, results.sorted())
    if request.figure is not None:
        draw(results, request.figure)


def _warn(missing: Sequence[Missing]) -> None:
    for each in missing:
        print(_left_out(each), file=sys.stderr)


def _left_out(missing: Missing) -> str:
    return f"left out: {missing.name}: {missing.reason}"


def _description(setting: Setting, results: Results, peak: MatmulPeak, missing: Sequence[Missing], clock: Clock) -> str:
    host = machine(torch.device(setting.device))
    where = host["device"] if setting.device == "cuda" else host["processor"]
    head = [
        f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{'wall-clock' if clock == 'wall' else 'processor'} time; "
        f"matrix products reach {peak.flops_per_second / 1e9:,.0f} GFLOP/s",
        f"batch {setting.batch}, {setting.heads} heads of {setting.head_size}, window {setting.window}, "
        f"chunk {setting.chunk}, {setting.hash_rounds} rounds of hashing, {setting.dtype}",
    ]
    tail = [*lines(results), *map(_left_out, missing)]
    return "\n".join([*head, "", render(tables(results, peak.flops_per_second)).rstrip("\n"), "", *tail])
