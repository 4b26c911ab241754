"""`ablab bench layers`, from its options to what it prints."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from ablab.bench.attention.cost import CLOCKS
from ablab.bench.attention.implementation import PASSES, Pass
from ablab.bench.attention.tables import render
from ablab.bench.layers import compressed, experts, linear
from ablab.bench.layers.measure import Effort, Timed, measure
from ablab.bench.layers.pair import Kind, Sizes
from ablab.bench.layers.tables import lines, tables
from ablab.bench.output import check_output
from ablab.errors import UserError
from ablab.results.store import write_atomically
from ablab.training.provenance import machine

LENGTHS = (512, 1024, 2048, 4096)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The user's request.

    Raises:
        UserError: something in it cannot be.
    """

    sizes: Sizes = field(default_factory=Sizes)
    kinds: Sequence[str] = ()  # all, where none is named
    lengths: Sequence[int] = LENGTHS
    passes: Sequence[Pass] = PASSES
    effort: Effort = field(default_factory=Effort)
    threads: int | None = None  # None: as many as torch takes
    json: Path | None = None

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise UserError(f"--lengths {' '.join(map(str, self.lengths))}: must be at least 1")
        for each in self.passes:
            if each not in PASSES:
                raise UserError(f"--passes {each}: there are {', '.join(PASSES)}")
        for name, value in (("rounds", self.effort.rounds), ("threads", self.threads)):
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be at least 1")
        if self.effort.clock not in CLOCKS:
            raise UserError(f"--clock {self.effort.clock}: there are {', '.join(CLOCKS)}")
        check_output(self.json)


def request(options: Namespace) -> Request:
    """The command line's options as a request.

    Raises:
        UserError: something in it cannot be.
    """
    return Request(
        sizes=Sizes(**{each.name: getattr(options, each.name) for each in fields(Sizes)}),
        kinds=options.layers or (),
        lengths=options.lengths or LENGTHS,
        passes=options.passes or PASSES,
        effort=Effort(rounds=options.rounds, clock=options.clock),
        threads=options.threads,
        json=options.json,
    )


def chosen(names: Sequence[str]) -> list[Kind]:
    """Those named, in the order of the catalogue; all where none is.

    Raises:
        UserError: a name is unknown.
    """
    known = [*experts.kinds(), *linear.kinds(), *compressed.kinds()]
    for name in names:
        if name not in (each.name for each in known):
            raise UserError(f"--layers {name}: there are {', '.join(each.name for each in known)}")
    return [each for each in known if not names or each.name in names]


def bench_layers(request: Request) -> str:
    """Measure and describe. What was measured is written as it comes.

    Raises:
        UserError: a layer is unknown.
    """
    kinds, before = chosen(request.kinds), torch.get_num_threads()
    torch.set_num_threads(request.threads or before)
    rows: list[Timed] = []
    try:
        for found in measure(kinds, request.sizes, request.lengths, request.passes, request.effort):
            rows += found
            print(f"{found[0].kind}: {found[0].length:,} tokens", file=sys.stderr, flush=True)
            if request.json is not None:
                write_atomically(request.json, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        return _description(request, rows)
    finally:
        torch.set_num_threads(before)


def _description(request: Request, rows: Sequence[Timed]) -> str:
    sizes, clock = request.sizes, "wall-clock time" if request.effort.clock == "wall" else "processor time"
    head = [
        f"{machine(torch.device('cpu'))['processor']}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{clock}, {request.effort.rounds} rounds in which all layers of a kind take turns",
        f"batch {sizes.batch}, width {sizes.width}, {sizes.heads} heads; {sizes.chosen} of {sizes.experts} experts of "
        f"{sizes.units} hidden units; {sizes.keys} keys picked, window {sizes.window}; float32",
    ]
    return "\n".join([*head, "", render(tables(rows)).rstrip("\n"), "", *lines(rows)])
