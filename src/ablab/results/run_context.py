"""The place of a run in its study: what was found out for it, which its record has and its config has not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from ablab.config import Node
from ablab.results.evaluation import as_part

Edge = Literal["smallest", "largest"]


@dataclass(frozen=True, kw_only=True)
class BudgetReport:
    """What was done to give a run as much as the reference of its study has. None where nothing could be measured."""

    changed: dict[str, list[int]] | None = None  # the keys that were adjusted, each with its values before and after
    value: float | None = None  # what the run has of what is matched
    of: float | None = None  # what the reference has


@dataclass(frozen=True, kw_only=True)
class LadderReport:
    """The size of a ladder that a run is of, and what the rules made of that."""

    rung: str  # "d_model=64,n_layers=3"
    place: int  # among the sizes, from 0
    parameters: int  # active ones of the baseline at this size, without embeddings
    tokens: int  # that every variant is trained on
    flops: float | None  # of the whole run of the baseline; None where they cannot be counted
    rate_factor: float  # the learning rate, in units of that at the first size
    rate_rule: str  # what that comes of: "constant", or a power, as "compute^-0.125"
    changed: dict[str, list[Any]]  # each key that was set, with its values before and after


@dataclass(frozen=True, kw_only=True)
class TuningReport:
    """What was chosen for a run, and all that was tried: each point of the grids on each tuning seed."""

    chosen: float | None = None  # the learning rate; None where another setting alone was tuned
    tried: list[list[float | None]] = field(default_factory=list)  # rates, where nothing else was tuned, with means
    edge: str | None = None  # of the rates that were tried, if the best is there: "largest" or "smallest"
    settings: Node = field(default_factory=dict)  # that were chosen, by dotted key
    # `settings`, and `values`: of each metric one per tuning seed, None where a run did not end well; where runs failed
    # and none diverged, so that nothing is known of the point, `failed`: why, by seed.
    points: list[Node] = field(default_factory=list)
    metric: str | None = None  # that decided
    direction: str = "min"
    extended: dict[str, list[int]] = field(default_factory=dict)  # key -> steps below and above the grid that was given
    lacking: list[str] = field(default_factory=list)  # keys that are tuned for others, and this variant has not


def edge_of(chosen: float, tried: Collection[float]) -> Edge | None:
    """The end of a grid of rates at which the chosen one lies: beyond it there may be a better one."""
    if len(tried) < 2 or chosen not in (min(tried), max(tried)):
        return None
    return "largest" if chosen == max(tried) else "smallest"


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The place of a run in its study, and what the study has found out for it: in its record, not in its config."""

    variant: str | None = None  # None: named after the overrides that the run was asked for by
    index: int | None = None  # None: in no plan
    budget: BudgetReport | None = None
    tuning: TuningReport | None = None
    ladder: LadderReport | None = None
    corpus: str | None = None  # the hash of the data that the study was planned with; None: whatever is there
    looks: list[Node] = field(default_factory=list)  # interim analyses of the study before this run was planned
    planned_looks: Node | None = None  # how often it will be analysed: `looks` (numbers of seeds), `max`, `spending`

    @classmethod
    def from_dict(cls, data: Node) -> RunContext:
        return cls(
            variant=data["variant"],
            index=data["index"],
            budget=as_part(BudgetReport, data["budget"]),
            tuning=as_part(TuningReport, data["tuning"]),
            ladder=as_part(LadderReport, data.get("ladder")),
            corpus=data.get("corpus"),
            looks=data.get("looks") or [],
            planned_looks=data.get("planned_looks"),
        )
