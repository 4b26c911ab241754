"""What the steps have found so far, as one JSON and one Markdown file: written whenever something has changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ablab.errors import UserError
from ablab.results.store import write_atomically

Row = dict[str, str | int | float | None]  # of a step's table, by column
Status = Literal["waiting", "running", "ok", "failed", "timeout", "interrupted", "skipped"]
JSON_FILE, MARKDOWN_FILE, LOG_FILE = "gpu-check.json", "gpu-check.md", "gpu-check.log"
BAD: tuple[Status, ...] = ("failed", "timeout", "interrupted", "waiting", "running")  # that are no success in the end
_FORMAT = 1


@dataclass(kw_only=True)
class Machine:
    """Where it was measured. Without a CUDA device `device` is "" and `reason` says why there is none."""

    device: str = ""
    reason: str = ""
    memory_bytes: int | None = None
    driver: str = ""
    cuda: str = ""
    torch: str = ""
    triton: str = ""
    nccl: str = ""
    processor: str = ""
    cores: int | None = None
    mps: str = ""  # how MPS is at hand, or why not
    git: dict[str, Any] | None = None  # the code that is measured

    @property
    def sentence(self) -> str:
        """Say which GPU in a line."""
        host = f"{self.processor}, {self.cores} cores, torch {self.torch}"
        if not self.device:
            return f"no GPU ({self.reason}); {host}"
        memory = f", {self.memory_bytes / 2**30:.0f} GiB" if self.memory_bytes else ""
        driver = f", driver {self.driver}" if self.driver else ""
        return f"{self.device}{memory}{driver}; {host}, CUDA {self.cuda}, NCCL {self.nccl}, Triton {self.triton}"


@dataclass(kw_only=True)
class StepResult:
    """How a step went, and its table, also where it was cut off."""

    name: str
    what: str
    limit_s: float
    status: Status = "waiting"
    reason: str = ""
    began_at: str = ""
    seconds: float | None = None
    rows: list[Row] = field(default_factory=list)
    log: list[str] = field(default_factory=list)  # the last lines of one that did not end well


@dataclass(kw_only=True)
class Results:
    """Of all steps."""

    machine: Machine = field(default_factory=Machine)
    version: str = ""
    began_at: str = ""
    steps: list[StepResult] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Replace both files, each at once."""
        whole = {"format": _FORMAT, **asdict(self)}
        write_atomically(folder / JSON_FILE, json.dumps(whole, indent=1, allow_nan=False) + "\n")
        write_atomically(folder / MARKDOWN_FILE, markdown(self))


def read(folder: Path) -> Results | None:
    """The results that lie in a folder; None where there are none.

    Raises:
        UserError: they cannot be read.
    """
    path = folder / JSON_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        steps = [StepResult(**step) for step in found["steps"]]
        known = {each.name: found[each.name] for each in fields(Results) if each.name not in ("machine", "steps")}
        return Results(machine=Machine(**found["machine"]), steps=steps, **known)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as results of ablab bench gpu; give another folder") from error


def markdown(results: Results) -> str:
    """All of it for people: which GPU, a row per step, and the table of each step that has one."""
    git = results.machine.git
    commit = f", commit {git['commit'][:12]}{' (changed)' * git['dirty']}" if git else ""
    head = f"# GPU check\n\n{results.machine.sentence}.\nablab {results.version}{commit}, {results.began_at}.\n"
    if results.machine.mps:
        head += f"MPS: {results.machine.mps}.\n"
    overview: list[Row] = [
        {"step": step.name, "outcome": _outcome(step), "seconds": step.seconds, "what": step.what}
        for step in results.steps
    ]
    parts = [head, table(overview)]
    for step in results.steps:
        if step.rows:
            cut = "" if step.status == "ok" else f" ({_outcome(step)})"
            parts.append(f"## {step.name}{cut}\n\n{table(step.rows)}")
        if step.log:
            text = "\n".join(f"    {line}" for line in step.log)
            parts.append(f"{'' if step.rows else f'## {step.name}'}\n\nIts last lines:\n\n{text}\n".lstrip("\n"))
    return "\n".join(parts)


def _outcome(step: StepResult) -> str:
    return f"{step.status}: {step.reason}" if step.reason else step.status


def table(rows: Sequence[Row]) -> str:
    """Rows as a table of Markdown, with the columns of all of them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else " ".join(value.replace("|", "\\|").split())
