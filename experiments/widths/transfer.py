"""Where the best learning rate lies at one width and at eight times as much, for every option of a model and optimizer.

    python experiments/widths/transfer.py            # measures what transfer.jsonl does not have yet
    python experiments/widths/transfer.py --table    # writes the table of README.md from transfer.jsonl

Each option trains small models on the source of the running Python's standard library, at rates that are powers of two
apart, until the best has worse ones on both sides. What is compared is the mean loss of the last quarter of the steps,
over the seeds; a parabola through the best rate and its neighbours says where the optimum lies between them.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from ablab.bench.loop import compose_config
from ablab.bench.widths.measure import steps_of
from ablab.config import RunConfig, conf_folder
from ablab.tasks.base import Batch, Task
from ablab.training.build import BuiltRun, build_task

HERE = Path(__file__).parent
KEPT, PAGE = HERE / "transfer.jsonl", HERE / "README.md"
NARROW, WIDE = 16, 128
STEPS, SEEDS, TAIL = 120, (0, 1), 30
WORST = 5.6  # nats, of a model that has learned nothing: no loss counts as more
MOST = 9  # powers of two that are tried on either side of the first one
AXES = ("attention", "feed_forward", "activation", "norm", "residual", "position", "layer_fusion", "objective")
OPTIMIZERS = ("adamw", "adam", "cautious_adamw", "lion", "muon", "normuon", "schedule_free", "sgd", "soap")
NO_CLIP = "trainer.gradient_clip_val=null"
SWITCHES = (
    *("attention.qk_norm=true", "attention.output_gate=head", "attention.sinks=true", "attention.softcap=20.0"),
    *("norm.placement=post", "norm.placement=sandwich", "model.tie_embeddings=false", "model.n_kv_heads=2"),
    "attention=mla attention.q_rank=8",
    "attention=lsh attention.share_qk=true attention.dense_below=0",
    "attention=windowed attention.window=8",
)
COMMON = (
    *("task=source_text", "task.seq_len=64", "task.batch_size=4", "task.max_bytes=1000000", "model=tiny"),
    *(f"trainer.max_steps={STEPS}", f"model.d_model={NARROW}", "model.n_heads=4"),
)
DEFAULTS = (  # the options that the first item is made of
    *("attention=full", "feed_forward=dense", "activation=relu", "norm=layer", "residual=plain", "position=learned"),
    *("layer_fusion=last", "objective=next_token"),
)
MUP = ("parametrisation=mup",)
FIRST = {"lion": 3, "muon": 4, "normuon": 4, "schedule_free": 1, "sgd": 2}  # powers of two above the option's own rate


@dataclass(frozen=True)
class Item:
    """An option, in a parametrisation."""

    words: str
    standard: bool = False
    widths: tuple[int, ...] = (NARROW, WIDE)

    @property
    def first(self) -> int:
        return FIRST.get(self.words.split()[0].removeprefix("optimizer="), 2)


@dataclass
class Course:
    """A model of one option at one width: its loss at each power of two of the rate."""

    config: RunConfig
    losses: dict[int, float] = field(default_factory=dict)

    def loss(self, power: int) -> float:
        if power not in self.losses:
            each = [self._trained(power, seed) for seed in SEEDS]
            self.losses[power] = sum(each) / len(each)
        return self.losses[power]

    def search(self, first: int) -> int:
        """The best power, with worse ones on both sides."""
        best = first
        while abs(best - first) <= MOST:
            better = min((best - 1, best, best + 1), key=self.loss)
            if better == best:
                break
            best = better
        return best

    def _trained(self, power: int, seed: int) -> float:
        rate = self.config.options["optimizer"]["lr"] * 2.0**power
        config = self.config.with_values({"optimizer.lr": rate, "seed": seed})
        task, batches = data(seed)
        built = BuiltRun(config=config, task=task)
        try:
            losses = list(steps_of(built, built.build_model(), batches))[-TAIL:]
        except (FloatingPointError, RuntimeError):
            return WORST
        return sum(min(each, WORST) if each == each else WORST for each in losses) / len(losses)


_DATA: dict[int, tuple[Task, list[Batch]]] = {}


def data(seed: int) -> tuple[Task, list[Batch]]:
    """The task and the batches that all models of a seed train on."""
    if seed not in _DATA:
        task = build_task(compose_config([*COMMON, f"seed={seed}"]))
        _DATA[seed] = task, list(islice(iter(task.train_dataloader()), STEPS))
    return _DATA[seed]


def optimum(losses: dict[int, float]) -> float:
    """The lowest point of the parabola through the best power and its neighbours; the best itself at an edge."""
    best = min(losses, key=lambda power: losses[power])
    if best - 1 not in losses or best + 1 not in losses:
        return float(best)
    left, middle, right = (losses[best + i] for i in (-1, 0, 1))
    bend = left - 2 * middle + right
    return best + (0.5 * (left - right) / bend if bend > 0 else 0.0)


def items() -> Iterator[Item]:
    """All that is measured: the defaults at more widths first."""
    every = (NARROW, 32, 64, WIDE)
    yield Item("optimizer=adamw", widths=every)
    yield Item("optimizer=adamw", standard=True, widths=every)
    yield Item(f"optimizer=sgd {NO_CLIP}")
    for option in OPTIMIZERS[1:]:
        yield Item(f"optimizer={option}")
    for axis in AXES:
        for path in sorted((conf_folder() / axis).glob("*.yaml")):
            if f"{axis}={path.stem}" not in DEFAULTS:
                yield Item(f"{axis}={path.stem}")
    yield from map(Item, SWITCHES)
    for option in ("lion", "muon", "soap"):
        yield Item(f"optimizer={option}", standard=True)


def measure() -> None:
    """Train what has not been kept yet, and keep it, an item at a time."""
    known = {(row["words"], row["standard"]) for row in kept()}
    for item in items():
        if (item.words, item.standard) in known:
            continue
        began, first, found = time.process_time(), item.first, {}
        try:
            for width in item.widths:
                words = [*COMMON, *item.words.split(), *(() if item.standard else MUP)]
                course = Course(compose_config(words).with_values({"model.d_model": width}))
                first = course.search(first)
                found[str(width)] = {str(power): round(loss, 5) for power, loss in sorted(course.losses.items())}
        except Exception as error:  # of an option that no model so narrow can have: it is told in the table
            found = {"refused": f"{error}".splitlines()[0][:200]}
        row = {"words": item.words, "standard": item.standard, "losses": found}
        with KEPT.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | {"seconds": round(time.process_time() - began, 1)}) + "\n")
        print(item, time.process_time() - began, flush=True)


def kept() -> list[dict]:
    """What has been measured."""
    if not KEPT.exists():
        return []
    return [json.loads(line) for line in KEPT.read_text(encoding="utf-8").splitlines()]


def optima(row: dict) -> dict[int, float]:
    """The optimum at each width, in powers of two of the option's own rate."""
    courses = {int(width): course for width, course in row["losses"].items()}
    return {width: optimum({int(power): loss for power, loss in each.items()}) for width, each in courses.items()}


def line(row: dict) -> str:
    """A row of the table."""
    name = " ".join(f"`{word}`" for word in row["words"].split())
    if "refused" in row["losses"]:
        return f"| {name} | {row['losses']['refused']} | | |"
    found = optima(row)
    rate = compose_config([*COMMON, *row["words"].split()]).options["optimizer"]["lr"]
    narrow, wide = (f"{rate * 2 ** found[width]:.2g}" for width in (NARROW, WIDE))
    moved = found[WIDE] - found[NARROW]
    told = f"**{moved:+.2f}**" if abs(moved) > 1 else f"{moved:+.2f}"
    return f"| {name} | {narrow} | {wide} | {told} |"


def write_table() -> None:
    """Put the tables of what is kept into the page."""
    head = f"| option | best rate at d_model={NARROW} | at {WIDE} | moves by, powers of two |\n|---|---|---|---|"
    text = PAGE.read_text(encoding="utf-8")
    for name, standard in (("mup", False), ("standard", True)):
        rows = [row for row in kept() if row["standard"] is standard]
        moved = [
            abs(found[WIDE] - found[NARROW])
            for row in rows
            if "refused" not in row["losses"]
            for found in [optima(row)]
        ]
        few = sum(each <= 1 for each in moved)
        said = f"{len(rows)} options; {few} move by at most one power of two, the most {max(moved):.2f}."
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, rest = text.split(begin)
        text = "".join(
            [
                before,
                begin,
                "\n",
                said,
                "\n\n",
                head,
                "\n",
                *(line(row) + "\n" for row in rows),
                "\n",
                end,
                rest.split(end)[1],
            ]
        )
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if "--table" in sys.argv:
        write_table()
    else:
        measure()
