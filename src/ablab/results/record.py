"""What one run leaves behind for the rest of the program: the schema of `record.json`.

A record is written once, atomically, when its run has ended, however it ended. Comparison, report and resume read
records only; nothing else of a run is needed to conclude from it (the learning curves in `metrics.csv` are drawn
where they exist). The dataclasses below are the schema's documentation.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ablab.config import Node
from ablab.config.placebo import placebo_of
from ablab.errors import UserError
from ablab.results.communication import Collective, Communication, Process
from ablab.results.evaluation import LARGEST as LARGEST
from ablab.results.evaluation import Corpus as Corpus
from ablab.results.evaluation import Direction as Direction
from ablab.results.evaluation import Evaluation, as_number, as_numbers, as_part, known_fields
from ablab.results.evaluation import Metric as Metric
from ablab.results.shape import misshapen

SCHEMA_VERSION = 1
LONGEST_REASON, LONGEST_TRACEBACK = 2000, 50_000  # characters; of more, which no run writes, the beginning is read
KEPT_EVALUATIONS = 10  # of each metric, the last ones

Status = Literal["ok", "diverged", "failed", "interrupted"]
Cause = Literal["error", "refused", "killed", "memory", "disk", "timeout", "hung"]


@dataclass(kw_only=True)
class Cost:
    """What the run cost. None where it was not measured (a run that failed early)."""

    parameters: int | None = None  # trainable scalars, tied ones once
    active_parameters: int | None = None  # those that one token has to do with: experts it does not go to left out
    flops_per_step: int | None = None  # forward and backward of one optimizer step, all processes together
    flops_total: int | None = None  # flops_per_step times the steps taken
    flops_uncounted: list[str] = field(default_factory=list)  # operators that the count knows no formula for
    # Of a sequence of 1,024, 8,192 and 65,536 tokens, one token after the other; see `ablab.training.inference`.
    cache_bytes_1k: int | None = None  # that are kept of it
    cache_bytes_8k: int | None = None
    cache_bytes_64k: int | None = None
    decode_flops_1k: int | None = None  # of its last token
    decode_flops_8k: int | None = None
    decode_flops_64k: int | None = None
    prefill_flops: int | None = None  # of a sequence as long as those of the training, all its tokens at once
    steps: int = 0  # optimizer steps taken
    tokens: int = 0  # tokens trained on, all processes together
    tokens_per_second: float | None = None  # while training; start-up, evaluation and the block after it left out
    wall_time_s: float | None = None  # the whole run: set-up, training, evaluation
    train_time_s: float | None = None  # the training steps alone
    processor_time_s: float | None = None  # of these steps, all threads of the first process: a busy machine adds none
    evaluation_time_s: float | None = None  # all evaluations together
    annealing_steps: int | None = None  # taken beside, by shorter runs on the way; None where there were none
    annealing_flops: float | None = None  # of these steps
    annealing_time_s: float | None = None  # of them and their evaluations, which the whole run's has, too
    peak_memory_bytes: int | None = None  # of the first process
    peak_memory_method: str | None = None  # how it was measured; compare only like with like

    def counted(self) -> Cost:
        """Return what of it is counted before the first step, and is the same for every seed."""
        known = {name: copy.copy(getattr(self, name)) for name in _COUNTED}
        return Cost(**known)


_COUNTED = (
    *("parameters", "active_parameters", "flops_per_step", "flops_uncounted", "prefill_flops"),
    *(f"{what}_{length}" for what in ("cache_bytes", "decode_flops") for length in ("1k", "8k", "64k")),
)


@dataclass(frozen=True, kw_only=True)
class Anneal:
    """A shorter run of the same, by way of the longer one: decayed to its end from where both were alike."""

    step: int  # optimizer steps of the shorter run, those of its decay included
    tokens: int  # that it was trained on
    flops: float  # that a run of that length by itself costs
    metrics: dict[str, float]  # of its last evaluation, as the run's own


# Names of the responses of the model as a whole, with its initial values. Each is empty where they were not computed.
FUNCTION = ("function/logits", "function/gradients", "function/update")


@dataclass(kw_only=True)
class Record:
    """One run: a variant with a seed, and how it ended."""

    status: Status
    reason: str | None = None  # one line, unless the status is "ok"
    # Of a failure: an exception, one line to the user, a signal, no memory, a full disk, too long, no progress.
    cause: Cause | None = None
    traceback: str | None = None  # of a failure: where the process stood that failed, or that the others waited for
    attempts: int = 1  # that one supervisor made: a run that crashed is tried again, and goes on from its checkpoint
    fingerprint: str  # identity: hash of the resolved config (without paths, loggers and the like) and the version
    study: str  # the study or sweep that the run belongs to
    variant: str  # the overrides that made this run, without the seed: "attention=lsh,model.d_model=64"; "" if none
    index: int | None = None  # position in the sweep's plan; the first variant of the plan is the default baseline
    seed: int
    axes: dict[str, str]  # axis -> option, for example {"attention": "windowed"}
    config: Node  # the resolved config, as in config.yaml
    primary: Metric | None = None  # None if the run failed before its task was built
    metrics: dict[str, float] = field(default_factory=dict)  # the last evaluation of each split, by name
    last: dict[str, list[float]] = field(
        default_factory=dict
    )  # the last `KEPT_EVALUATIONS` on "val", the final one last
    evaluated: dict[str, int] = field(default_factory=dict)  # samples in it, by split, over all processes
    annealed: tuple[Anneal, ...] = ()  # shorter runs that this one made on its way, ascending, without its own end
    mechanism: dict[str, float] = field(default_factory=dict)  # "axis/name": does the component do what it claims?
    responses: dict[str, list[float]] = field(default_factory=dict)  # of the model and its parts, and the rate's trace
    parameter_groups: list[Node] = field(default_factory=list)  # name, size, lr, weight_decay, optimizer
    cost: Cost = field(default_factory=Cost)
    communication: Communication | None = None  # between the processes, None where there is one
    budget: Node | None = None  # where one was asked for: what was matched with what, and adjusted
    tuning: Node | None = None  # where the learning rate was tuned: the choice, the grid and its results
    rung: str | None = None  # the size of the ladder that the run is of: "d_model=64,n_layers=3"
    ladder: Node | None = None  # of such a run: what the ladder's rules made of it
    origin: str | None = None  # the checksum of the other run's checkpoint that it went on from
    looks: list[Node] = field(
        default_factory=list
    )  # of the study before this run was planned, as its looks.json had them
    planned_looks: Node | None = None  # None: the study did not say how often it would be analysed
    corpus: Corpus | None = None
    oracle: dict[str, float] = field(default_factory=dict)  # known values of the primary metric: chance, ceiling, ...
    stacked: int | None = None  # seeds that were trained in one process, by one pass; None: it was alone
    notes: list[str] = field(default_factory=list)  # what a reader should know of how it came about, a line each
    pictures: list[str] = field(default_factory=list)  # that the run left in its folder: files below it, PNG
    versions: dict[str, str] = field(default_factory=dict)  # ablab, python, torch, lightning, hydra-core, numpy
    git: Node | None = None  # {"commit": ..., "dirty": ...} of the working directory, None outside git
    machine: Node = field(default_factory=dict)  # processor, threads, device, host platform
    started_at: str | None = None  # ISO 8601, UTC
    finished_at: str | None = None
    curves_sha256: str | None = None  # of metrics.csv, when the run ended
    evaluations: dict[str, Evaluation] = field(default_factory=dict)  # elsewhere, from their own files: not written
    schema: int = SCHEMA_VERSION

    @property
    def measured(self) -> dict[str, float]:
        """The metrics of the run, and those of its evaluations elsewhere: `val_loss@task.seq_len=1024`."""
        if not self.evaluations:
            return self.metrics
        return self.metrics | {name: value for each in self.evaluations.values() for name, value in each.named.items()}

    @property
    def declared_baseline(self) -> str | None:
        """The baseline that the study of the run declares."""
        baseline: str | None = self.comparison.get("baseline") or self.config.get("baseline")  # of earlier versions
        return baseline

    @property
    def conditions(self) -> list[str]:
        """The axes and settings that the study of the run compares within."""
        declared = self.comparison.get("within")
        return [str(name) for name in declared] if isinstance(declared, list) else []

    @property
    def placebo(self) -> str:
        """The kind of placebo that the run is, "" where it is none."""
        return placebo_of(self.config)

    @property
    def comparison(self) -> Node:
        """What the study of the run declared of its comparison when the run began; empty of earlier versions."""
        declared = self.config.get("comparison")
        return declared if isinstance(declared, dict) else {}

    def to_dict(self) -> Node:
        data = dataclasses.asdict(self)
        del data["evaluations"]
        return data

    @classmethod
    def from_dict(cls, data: Node) -> Record:
        """The record in `data`. Fields that this version does not know are dropped.

        Raises:
            UserError: the record is of a newer schema, or is not a record at all.
        """
        schema = data.get("schema")
        if not isinstance(schema, int):
            raise UserError("not an ablab record: it has no schema number")
        if schema > SCHEMA_VERSION:
            raise UserError(
                f"the record has schema {schema}, this ablab reads up to {SCHEMA_VERSION}: upgrade ablab to read it"
            )
        try:
            record = cls(
                **{
                    **known_fields(cls, {"notes": data.get("remarks") or [], **data}),  # their former name
                    "reason": _cut(data.get("reason"), LONGEST_REASON),
                    "traceback": _cut(data.get("traceback"), LONGEST_TRACEBACK),
                    "metrics": as_numbers(data.get("metrics")),
                    "mechanism": as_numbers(data.get("mechanism")),
                    "annealed": _annealed(data.get("annealed")),
                    "oracle": as_numbers(data.get("oracle")),
                    "last": {name: _finite(values) for name, values in (data.get("last") or {}).items()},
                    "responses": {name: _finite(values) for name, values in (data.get("responses") or {}).items()},
                    "primary": as_part(Metric, data.get("primary")),
                    "cost": as_part(Cost, data.get("cost")) or Cost(),
                    "communication": _communication(data.get("communication")),
                    "corpus": as_part(Corpus, data.get("corpus")),
                    "evaluations": {},
                }
            )
        except (TypeError, AttributeError) as error:
            raise UserError(f"a damaged record: {error}") from error
        if wrong := misshapen(record) or _endless(record.cost):
            raise UserError(f"a damaged record: {wrong}")
        return record


def _cut(text: Any, longest: int) -> Any:
    return f"{text[:longest]}..." if isinstance(text, str) and len(text) > longest else text


def _finite(values: list[float | None]) -> list[float]:
    return [as_number(value) for value in values]


def _endless(cost: Cost) -> str | None:
    """The first of the costs that is larger than any can be."""
    told = ((name, value) for name, value in vars(cost).items() if isinstance(value, int | float))
    return next((f"cost.{name} is {value:g}" for name, value in told if abs(value) > LARGEST), None)


def _annealed(data: list[Node] | None) -> tuple[Anneal, ...]:
    numbers = [
        {**each, "flops": as_number(each.get("flops")), "metrics": as_numbers(each.get("metrics"))}
        for each in data or []
    ]
    return tuple(Anneal(**known_fields(Anneal, each)) for each in numbers)


def _communication(data: Node | None) -> Communication | None:
    if data is None:
        return None
    lists = {
        "collectives": [as_part(Collective, each) for each in data.get("collectives") or []],
        "each": [as_part(Process, each) for each in data.get("each") or []],
    }
    return Communication(**known_fields(Communication, data) | lists)
