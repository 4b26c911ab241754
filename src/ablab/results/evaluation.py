"""Evaluations of a finished run elsewhere: at another length, on another corpus or task; each a file beside its record.

An evaluation is named by what was asked for, `task.seq_len=1024`, and its metrics by their own name and the
evaluation's: `val_loss@task.seq_len=1024`. Readers find them wherever they find the run's own. The record itself is
never changed by them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ablab.config import Node
from ablab.config.overrides import BETWEEN_OVERRIDES, alike
from ablab.errors import UserError
from ablab.results.shape import misshapen

SCHEMA_VERSION = 1
LARGEST = 1e100  # of a number that is counted with: the square of a much larger one is none any more
AT = "@"  # between the name of a metric and that of an evaluation
CHECKPOINT = "checkpoint"  # the key of a name that says which weights were evaluated; without it the best
BEST, LAST = "best", "last"
_LONGEST_NAME = 1000  # characters
_PLAIN = re.compile(r"[\w.,=+-]{1,120}", re.ASCII)

Direction = Literal["min", "max"]


@dataclass(kw_only=True)
class Metric:
    """The figure by which a task judges its runs."""

    name: str  # as logged and as in `Record.metrics`, for example "val_loss"
    split: Literal["val", "test"]
    direction: Direction  # "min": lower is better


@dataclass(kw_only=True)
class Corpus:
    """What the run learned from, or was evaluated on."""

    name: str
    sha256: str  # over the names and bytes of all files, in order
    size_bytes: int
    files: int


@dataclass(kw_only=True)
class Evaluation:
    """A finished run on other data than its own, or on longer sequences. Nothing was trained for it."""

    name: str  # "task.seq_len=1024"
    fingerprint: str  # of the run's record
    checkpoint: str  # "best" or "last"
    step: int  # of the checkpoint
    task: Node  # the resolved config of the task
    primary: Metric
    metrics: dict[str, float]  # by the task's own names: "val_loss"
    evaluated: dict[str, int]  # samples, by split
    corpus: Corpus
    oracle: dict[str, float] = field(default_factory=dict)  # known values of the primary metric
    time_s: float | None = None
    machine: Node = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    finished_at: str | None = None  # ISO 8601, UTC
    schema: int = SCHEMA_VERSION

    @property
    def named(self) -> dict[str, float]:
        """The metrics by the names that tell them from the run's own."""
        return {f"{metric}{AT}{self.name}": value for metric, value in self.metrics.items()}

    @property
    def length(self) -> int | None:
        """Tokens of a sequence; None where the task knows no such."""
        length = self.task.get("seq_len")
        return length if type(length) is int else None

    def to_dict(self) -> Node:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Node) -> Evaluation:
        """The evaluation in `data`. Fields that this version does not know are dropped.

        Raises:
            UserError: it is of a newer schema, or none at all.
        """
        schema = data.get("schema")
        if type(schema) is not int or not isinstance(data.get("name"), str):
            raise UserError("not an evaluation of ablab's")
        if schema > SCHEMA_VERSION:
            raise UserError(f"the evaluation has schema {schema}, this ablab reads up to {SCHEMA_VERSION}: upgrade it")
        try:
            numbers = {name: as_numbers(data.get(name)) for name in ("metrics", "oracle")}
            nested = {"primary": as_part(Metric, data.get("primary")), "corpus": as_part(Corpus, data.get("corpus"))}
            found = cls(**known_fields(cls, data) | numbers | nested)
        except (TypeError, AttributeError) as error:
            raise UserError(f"a damaged evaluation: {error}") from error
        if (wrong := misshapen(found)) or (found.time_s is not None and not abs(found.time_s) < LARGEST):
            raise UserError(f"a damaged evaluation: {wrong or 'time_s is no time'}")
        if not is_name(found.name):
            raise UserError(f"a damaged evaluation: its name is {found.name!r:.60}")
        return found


def evaluation_name(overrides: Iterable[str]) -> str:
    """What an evaluation is called: its overrides, values in one spelling, the option of the task in front.

    That of a run on its own task, for which there is nothing to override, is `checkpoint=best`.
    """
    words = sorted({alike(word.strip()) for word in overrides}, key=lambda word: (not word.startswith("task="), word))
    rest = [word for word in words if word != f"{CHECKPOINT}={BEST}"]
    return ",".join(rest) or f"{CHECKPOINT}={BEST}"


def is_name(name: str) -> bool:
    """Whether it is what `evaluation_name` makes of its own parts: a value with "," and "=" in it would be several."""
    return len(name) <= _LONGEST_NAME and name == evaluation_name(BETWEEN_OVERRIDES.split(name))


def metric_name(wanted: str) -> str:
    """A metric as tables have it, however its evaluation is spelt: `val_loss@task.seq_len=1_024`."""
    metric, at, name = wanted.partition(AT)
    return f"{metric}{AT}{evaluation_name(BETWEEN_OVERRIDES.split(name))}" if at else wanted


def file_name(name: str) -> str:
    """The name of an evaluation's file: readable, and without characters that shells or file systems object to."""
    if _PLAIN.fullmatch(name):
        return f"{name}.json"
    readable = re.sub(r"[^\w.,=+-]+", "_", name, flags=re.ASCII)[:80]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"


def as_evaluation(data: Any, source: Path, fingerprint: str) -> Evaluation:
    """The evaluation of the run with that fingerprint. Raises UserError, naming the `source`, for anything else."""
    try:
        found = Evaluation.from_dict(data if isinstance(data, dict) else {})
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    if found.fingerprint != fingerprint:
        raise UserError(f"{source}: an evaluation of another run than the one that lies here; remove it")
    return found


def as_numbers(data: dict[str, float | None] | None) -> dict[str, float]:
    """Metrics as written: NaN and infinity have become null, since JSON has neither."""
    return {name: as_number(value) for name, value in (data or {}).items()}


def as_number(value: float | None) -> float:
    """A number to count with; NaN for none, and for one so large that it is as good as infinite."""
    if value is None or (isinstance(value, int | float) and abs(value) > LARGEST):
        return math.nan
    return value


def as_part(cls: type, data: Node | None) -> Any:
    """A dataclass that is part of another, from what was written of it."""
    return None if data is None else cls(**known_fields(cls, data))


def known_fields(cls: type, data: Node) -> Node:
    """What this version of a dataclass knows of `data`."""
    names = _names(cls)
    return {key: value for key, value in data.items() if key in names}


@cache
def _names(cls: type) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(cls))
