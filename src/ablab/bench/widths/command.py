"""`ablab bench widths`, from its options to what it prints."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ablab.bench.attention.tables import Table, render
from ablab.bench.loop import compose_config
from ablab.bench.output import check_output
from ablab.bench.widths.measure import Cell, moves, slope
from ablab.errors import UserError
from ablab.results.store import write_atomically
from ablab.study.planning.preflight import Preflight
from ablab.tasks.base import Task
from ablab.training.build import build_task

AXIS = "parametrisation"
WIDTHS = (32, 64, 128, 256, 512)
LEVEL = 0.2  # an exponent up to which nothing is called growing: narrow models are not quite in the limit
# What a check takes where the user says nothing of it: few tokens, and the whole rate from the first step on.
_USUAL = {
    "task": ("task.seq_len=64", "task.batch_size=8"),
    "schedule": ("schedule=constant", "schedule.warmup_share=0"),
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Args:
        overrides: as for a run; those of the axis `parametrisation` are of the second of the two alone.
        seeds: of initial values and batches; so many, from the config's on.

    Raises:
        UserError: something in it cannot be.
    """

    overrides: Sequence[str] = ()
    widths: Sequence[int] = WIDTHS
    steps: int = 5
    seeds: int = 2
    output: Path | None = None

    def __post_init__(self) -> None:
        if len(set(self.widths)) < 2 or min(self.widths) < 1:
            raise UserError(f"--widths {' '.join(map(str, self.widths))}: give two or more, each at least 1")
        for name in ("steps", "seeds"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least 1")
        check_output(self.output)


def check_widths(request: Request) -> list[Cell]:
    """Measure all models.

    Raises:
        UserError: a config cannot work.
    """
    cells: list[Cell] = []
    for found in _measured(request):
        cells.append(found)
        print(f"{found.parametrisation}, d_model={found.width}, seed {found.seed}", file=sys.stderr, flush=True)
        if request.output is not None:
            write_atomically(request.output, json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    return cells


def _measured(request: Request) -> Iterator[Cell]:
    usual = [word for key, words in _USUAL.items() if not _names(request.overrides, key) for word in words]
    common = [word for word in request.overrides if not _is_of(word, AXIS)]
    own = [word for word in request.overrides if _is_of(word, AXIS)]
    tasks: dict[int, Task] = {}
    for words in ([f"{AXIS}=standard"], own if _names(own, AXIS, whole=True) else [f"{AXIS}=mup", *own]):
        for width in sorted(set(request.widths)):
            config = compose_config(
                [*usual, *common, *words, f"model.d_model={width}", f"trainer.max_steps={request.steps}"]
            )
            Preflight().check(config)
            for seed in range(config.seed, config.seed + request.seeds):
                each = config.with_values({"seed": seed})
                task = tasks[seed] if seed in tasks else tasks.setdefault(seed, build_task(each))
                yield Cell(config.axes[AXIS], width, seed, request.steps, moves(each, task, request.steps))


def _names(overrides: Sequence[str], key: str, *, whole: bool = False) -> bool:
    """Whether the user says which option of an axis it is to be, or, not as a `whole`, anything of it."""
    return any(word.startswith(f"{key}=") or (not whole and _is_of(word, key)) for word in overrides)


def _is_of(word: str, key: str) -> bool:
    return word.lstrip("+~").startswith((f"{key}=", f"{key}."))


def exponents(cells: Sequence[Cell]) -> dict[str, dict[str, list[float]]]:
    """Part of the model -> parametrisation -> for each seed the power of the width by which training moves it."""
    found: dict[str, dict[str, list[float]]] = {}
    for part in cells[0].moves:
        for name in dict.fromkeys(cell.parametrisation for cell in cells):
            own = [cell for cell in cells if cell.parametrisation == name]
            seeds = sorted({cell.seed for cell in own})
            each = [slope([(cell.width, cell.moves[part]) for cell in own if cell.seed == seed]) for seed in seeds]
            found.setdefault(part, {})[name] = each
    return found


def described(cells: Sequence[Cell]) -> str:
    """The table of exponents, and a sentence for each parametrisation."""
    found = exponents(cells)
    names = list(next(iter(found.values())))
    rows = [[part, *(_range(each[name]) for name in names)] for part, each in found.items()]
    widths = sorted({cell.width for cell in cells})
    title = (
        f"by which power of the width {cells[0].steps} steps move what parts give, d_model {widths[0]} to {widths[-1]}"
    )
    lines = [_sentence(name, {part: statistics.fmean(each[name]) for part, each in found.items()}) for name in names]
    return "\n".join([render([Table(title, ["part", *names], rows)]).rstrip("\n"), "", *lines])


def _range(values: Sequence[float]) -> str:
    spread = (max(values) - min(values)) / 2
    return f"{statistics.fmean(values):+.2f}" + (f" ± {spread:.2f}" if len(values) > 1 else "")


def _sentence(name: str, powers: dict[str, float]) -> str:
    growing = {part: power for part, power in powers.items() if power > LEVEL or math.isnan(power)}
    if not growing:
        return f"{AXIS}={name}: nothing grows with the width (no power is above {LEVEL})"
    most = max(growing, key=lambda part: growing[part])
    return (
        f"{AXIS}={name}: {len(growing)} of {len(powers)} grow with the width, {most} the most ({growing[most]:+.2f}): "
        "the best learning rate falls as the model gets wider"
    )


def courses(cells: Sequence[Cell]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Parametrisation -> part of the model -> (width, how far training moves it), the mean over the seeds."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name in dict.fromkeys(cell.parametrisation for cell in cells):
        own = [cell for cell in cells if cell.parametrisation == name]
        found[name] = {
            part: [
                (width, statistics.fmean(cell.moves[part] for cell in own if cell.width == width))
                for width in sorted({cell.width for cell in own})
            ]
            for part in own[0].moves
        }
    return found
