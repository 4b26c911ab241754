"""`ablab bench decode`, from its options to what it prints."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from ablab.bench.attention.cost import CLOCKS
from ablab.bench.attention.tables import render
from ablab.bench.decode.entries import BASE, Entry, Sizes, attention_entry, recipe_entries
from ablab.bench.decode.measure import Timed, measure
from ablab.bench.decode.tables import lines, tables
from ablab.bench.layers.measure import Effort
from ablab.bench.output import check_output
from ablab.config import conf_folder
from ablab.config.nearest import nearest
from ablab.errors import UserError
from ablab.results.store import write_atomically
from ablab.training.provenance import machine

LENGTHS, BATCHES = (512, 2048, 8192), (1,)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The user's request.

    Raises:
        UserError: something in it cannot be.
    """

    sizes: Sizes = field(default_factory=Sizes)
    attentions: Sequence[str] | None = None  # None: all that have a cache
    recipes: Sequence[str] = (BASE,)
    lengths: Sequence[int] = LENGTHS
    batches: Sequence[int] = BATCHES
    steps: int = 8
    effort: Effort = field(default_factory=Effort)
    threads: int | None = None  # None: as many as torch takes
    json: Path | None = None

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("batches", self.batches)):
            if min(values) < 1:
                raise UserError(f"--{name} {' '.join(map(str, values))}: must be at least 1")
        for name, value in (("rounds", self.effort.rounds), ("steps", self.steps), ("threads", self.threads)):
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be at least 1")
        if not self.recipes and self.attentions is not None and not self.attentions:
            raise UserError(
                "--recipes --attentions: name one at least, or leave an option out for what it has by itself"
            )
        if self.effort.clock not in CLOCKS:
            raise UserError(f"--clock {self.effort.clock}: there are {', '.join(CLOCKS)}")
        for option in self.attentions or ():
            if option not in (known := ["full", *menu()]):
                raise UserError(f"--attentions {option}: no such option{nearest(option, known)}")
        check_output(self.json)

    @property
    def longest(self) -> int:
        """Tokens that a model must take."""
        return max(self.lengths) + self.steps


def menu() -> list[str]:
    """The attentions that a model can have in all of its layers, but for the recipe's own, `full`."""
    found = (path.stem for path in (conf_folder() / "attention").glob("*.yaml"))
    return sorted(name for name in found if name not in ("full", "pattern"))


def request(options: Namespace) -> Request:
    """The command line's options as a request.

    Raises:
        UserError: something in it cannot be.
    """
    return Request(
        sizes=Sizes(**{each.name: getattr(options, each.name) for each in fields(Sizes)}),
        attentions=options.attentions,
        recipes=(BASE,) if options.recipes is None else options.recipes,
        lengths=options.lengths or LENGTHS,
        batches=options.batches or BATCHES,
        steps=options.steps,
        effort=Effort(rounds=options.rounds, clock=options.clock),
        threads=options.threads,
        json=options.json,
    )


def bench_decode(request: Request) -> str:
    """Measure and describe. What was measured is written as it comes.

    Raises:
        UserError: a recipe is unknown.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(request.threads or before)
    rows: list[Timed] = []
    without: list[str] = []
    try:
        entries = list(_entries(request, without))
        for batch in dict.fromkeys(request.batches):
            for length in sorted(set(request.lengths)):
                rows += measure(entries, request.sizes.words, batch, length, request.steps, request.effort)
                print(f"batch {batch}: {length:,} tokens", file=sys.stderr, flush=True)
                if request.json is not None:
                    write_atomically(request.json, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        return _description(request, rows, without)
    finally:
        torch.set_num_threads(before)


def _entries(request: Request, without: list[str]) -> Iterator[Entry]:
    for recipe in request.recipes:
        yield from recipe_entries(recipe, request.sizes, request.longest)
    for option in menu() if request.attentions is None else request.attentions:
        made = attention_entry(option, request.sizes, request.longest)
        if isinstance(made, Entry):
            yield made
        else:
            without.append(made)


def _description(request: Request, rows: Sequence[Timed], without: Sequence[str]) -> str:
    sizes, clock = request.sizes, "wall-clock time" if request.effort.clock == "wall" else "processor time"
    head = [
        f"{machine(torch.device('cpu'))['processor']}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{clock}, {request.effort.rounds} rounds in which all models take turns, {request.steps} tokens each",
        f"recipe {BASE}, width {sizes.width}, {sizes.heads} heads, {sizes.layers} layers, {sizes.words} words; float32",
    ]
    shown = render(tables(rows)).rstrip("\n")
    return "\n".join([*head, "", shown, "", *lines(rows), *(f"left out: {line}" for line in without)])
