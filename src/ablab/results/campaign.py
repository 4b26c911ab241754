"""A campaign: one baseline, and proposals judged against it one after another. What its ledger says, typed.

Everything that is concluded is a function of the ledger, up to the line at which a proposal began where earlier ones
have a say, so that whoever goes on after a kill concludes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ablab.config import Node
from ablab.errors import UserError
from ablab.results.evaluation import known_fields
from ablab.results.ledger import Entry, Ledger
from ablab.results.record import Direction

SCHEMA = 1
BASELINE = "baseline"  # whose run it is, where it is no proposal's

Decision = Literal["KEEP", "DISCARD", "MORE SEEDS"]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What proposals are compared with, until it is moved."""

    overrides: list[str]
    identity: str  # of its config and its sources, whatever the seed
    config_dirs: list[str] = field(default_factory=list)
    corpus: str | None = None  # the hash of its data


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What was said when the campaign began, and holds for all of it."""

    metric: str
    direction: Direction
    level: float  # the share of false ones among what is kept
    proposals: int  # that it is planned for
    margin: float = 0.0  # an improvement must exceed it
    by_name: bool = False  # the direction was not declared by the task, but taken from the metric's name
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class JudgedRun:
    """A run of the campaign that has ended."""

    of: str  # the identity of a proposal, or `BASELINE`
    seed: int
    status: str
    value: float | None = None
    reason: str | None = None
    again: bool = False  # its metrics are the baseline's to the last bit, and so is its function
    parameters: int | None = None
    flops: int | None = None  # of the whole run
    folder: str = ""  # below that of the campaign
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What was proposed, and what has become of it."""

    number: int  # from 1, in the order in which they were begun
    identity: str  # of its config and its sources, whatever the seed, and of the baseline, where that was moved
    label: str
    overrides: list[str]
    config_dirs: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)  # modules of its components, each with the hash of its file
    baseline: int = 1  # the number of the baseline that it is compared with
    began: int = 0  # the line of the ledger
    certificate: Node | None = None  # None: it was not asked for
    runs: tuple[JudgedRun, ...] = ()
    verdict: Node | None = None  # as it was written; None: it is open

    @property
    def decision(self) -> Decision:
        return self.verdict["decision"] if self.verdict else "MORE SEEDS"


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """All that a ledger says."""

    declaration: Declaration
    baselines: tuple[Baseline, ...]  # in the order in which each was first moved to
    baseline_runs: tuple[tuple[JudgedRun, ...], ...]  # of each of them
    proposals: tuple[Proposal, ...] = ()
    present: int = 0  # the place of the present baseline, which need not be the last: one may move back

    @property
    def baseline(self) -> Baseline:
        """The present one."""
        return self.baselines[self.present]

    def find(self, identity: str) -> Proposal | None:
        return next((each for each in self.proposals if each.identity == identity), None)

    def count(self, decision: Decision) -> int:
        return sum(each.decision == decision for each in self.proposals)

    @property
    def runs(self) -> int:
        """All that were made."""
        return sum(map(len, self.baseline_runs)) + sum(len(each.runs) for each in self.proposals)


def read_campaign(folder: Path) -> Campaign:
    """The campaign in a folder. Raises UserError: there is none, or its ledger was changed."""
    campaign = campaign_of(Ledger(folder).entries)
    if campaign is None:
        raise UserError(f"{folder}: there is no campaign here; its first proposal begins one: ablab judge KEY=VALUE")
    return campaign


def campaign_of(entries: Sequence[Entry]) -> Campaign | None:
    """The campaign as the lines of a ledger tell it; None where it has not begun.

    Raises:
        UserError: the ledger was written by a newer version.
    """
    if not entries:
        return None
    schema = entries[0].content.get("schema")
    if entries[0].kind != "campaign" or not isinstance(schema, int) or schema > SCHEMA:
        raise UserError(f"the ledger has schema {schema}, this ablab reads up to {SCHEMA}: upgrade ablab to read it")
    baselines: list[Baseline] = []
    baseline_runs: list[list[JudgedRun]] = []
    proposals: dict[str, Proposal] = {}
    present = 0
    for entry in entries[1:]:
        content = entry.content
        if entry.kind == "baseline":
            moved = _as(Baseline, content)
            known = (place for place, each in enumerate(baselines) if each.identity == moved.identity)
            if (present := next(known, len(baselines))) == len(baselines):
                baselines.append(moved)
                baseline_runs.append([])
        elif entry.kind == "proposal":
            told = replace(_as(Proposal, content), began=entry.number, baseline=present + 1)
            proposals[told.identity] = told
        elif entry.kind == "run" and content["of"] == BASELINE:
            baseline_runs[present].append(_as(JudgedRun, content))
        elif content.get("of") in proposals:
            proposals[content["of"]] = _told(proposals[content["of"]], entry)
    return Campaign(
        declaration=_as(Declaration, entries[0].content),
        baselines=tuple(baselines),
        baseline_runs=tuple(map(tuple, baseline_runs)),
        proposals=tuple(proposals.values()),
        present=present,
    )


def _told(proposal: Proposal, entry: Entry) -> Proposal:
    """A proposal after a line that is about it."""
    if entry.kind == "run":
        return replace(proposal, runs=(*proposal.runs, _as(JudgedRun, entry.content)))
    if entry.kind == "certificate":
        return replace(proposal, certificate=entry.content["certificate"])
    return replace(proposal, verdict=entry.content) if entry.kind == "verdict" else proposal


def _as(kind: Any, content: Node) -> Any:
    return kind(**known_fields(kind, content))
