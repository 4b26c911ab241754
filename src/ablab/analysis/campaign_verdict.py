"""What a campaign's ledger says of a proposal: kept, discarded and why, or the seed that it is run on next.

A pure function of the ledger. Noise is that of the lines before the proposal began; the level is that of its number and
of what has been kept so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np

from ablab.analysis.campaign_noise import SEEDS, Noise, noise_of, order_of_seeds
from ablab.analysis.campaign_rule import Evidence, evidence_of
from ablab.analysis.online_fdr import e_lond_level
from ablab.config import Node
from ablab.results.campaign import Campaign, Decision, Declaration, JudgedRun, Proposal, campaign_of
from ablab.results.ledger import Entry

Reason = Literal[
    "better",
    "futile",
    "not shown",
    "no effect",
    "diverged",
    "failed",
    "certificate",
    "baseline",
    "not comparable",
    "runs",
    "limit",
]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is said of a proposal.

    Attributes:
        reason: in a word; `detail` has what there is to add, as the error of a run.
        effect: variant minus baseline, the baseline's luck taken out; `interval` is of 95%, wherever one stops.
        difference: the plain mean of the paired differences.
        level: at which it was tested, so that an e-value of 1 / level was needed.
        seeds: of its runs, in their order.
    """

    decision: Decision
    reason: Reason
    detail: str = ""
    effect: float | None = None
    interval: tuple[float | None, float | None] = (None, None)
    difference: float | None = None
    deviation: float | None = None
    e_value: float = 1.0
    p_value: float = 1.0
    level: float
    seeds: tuple[int, ...] = ()

    def to_dict(self) -> Node:
        """As plain data, as ledgers have it."""
        return asdict(self) | {"interval": list(self.interval), "seeds": list(self.seeds)}

    @classmethod
    def from_dict(cls, data: Node) -> Judgement:
        names = cls.__dataclass_fields__
        low, high = data["interval"]
        return cls(
            **{k: v for k, v in data.items() if k in names} | {"interval": (low, high), "seeds": (*data["seeds"],)}
        )


@dataclass(frozen=True)
class Next:
    """The seed that an open proposal is run on next, and what is said of it until then."""

    seed: int
    so_far: Judgement = field(compare=False)


def verdict_on(proposal: Proposal, campaign: Campaign, entries: Sequence[Entry]) -> Judgement | Next:
    """Judge a proposal by the runs that it has.

    Args:
        entries: of the campaign's ledger.
    """
    order = order_of_seeds(proposal.number)
    level = level_of(proposal, campaign)
    if ended := _ended(proposal, level):
        return ended
    improvements = _improvements(proposal, campaign, order)
    before = campaign_of(entries[: proposal.began - 1])
    assert before is not None
    noise = noise_before(before, proposal.baseline)
    evidence = evidence_of(improvements, order, noise, campaign.declaration.margin)
    said = _said(evidence, improvements, order, campaign.declaration, level)
    if evidence.resolves(level):
        return Judgement(decision="KEEP", reason="better", **said)
    if evidence.futile:
        return Judgement(decision="DISCARD", reason="futile", **said)
    if evidence.seeds == SEEDS:
        return Judgement(decision="DISCARD", reason="not shown", **said)
    return Next(order[evidence.seeds], Judgement(decision="MORE SEEDS", reason="runs", **said))


def level_of(proposal: Proposal, campaign: Campaign) -> float:
    """The level that a proposal has now."""
    declared = campaign.declaration
    return e_lond_level(proposal.number, campaign.count("KEEP"), declared.level, declared.proposals)


def _ended(proposal: Proposal, level: float) -> Judgement | None:
    """The judgement on a proposal of which no differences are asked any more."""

    def discarded(reason: Reason, detail: str = "") -> Judgement:
        seeds = tuple(run.seed for run in proposal.runs)
        return Judgement(decision="DISCARD", reason=reason, detail=detail, level=level, seeds=seeds)

    if proposal.certificate is not None and not proposal.certificate["passed"]:
        failed = [check for check in proposal.certificate["checks"] if check["outcome"] == "fail"]
        return discarded("certificate", "; ".join(f"{check['name']}: {check['detail']}" for check in failed))
    for run in proposal.runs:
        if run.status == "diverged":
            return discarded("diverged", f"seed {run.seed}: {run.reason}")
        if run.status != "ok" or run.value is None:
            return discarded("failed", f"seed {run.seed}: {run.reason or 'no value of the metric'}")
        if run.again:
            return discarded("no effect", f"seed {run.seed}: every metric is the baseline's to the last bit")
    return None


def _improvements(proposal: Proposal, campaign: Campaign, order: Sequence[int]) -> list[float]:
    """On the seeds that the proposal has, in its order, up to the first that it or the baseline lacks."""
    base, own = (_values(runs) for runs in (campaign.baseline_runs[proposal.baseline - 1], proposal.runs))
    found: list[float] = []
    for seed in order:
        if seed not in own or seed not in base:
            break
        found.append(_sign(campaign.declaration) * (own[seed] - base[seed]))
    return found


def noise_before(campaign: Campaign, baseline: int) -> Noise:
    """What proposals say of noise that were compared with the baseline of a number."""
    base = _values(campaign.baseline_runs[baseline - 1])
    same = [each for each in campaign.proposals if each.baseline == baseline and _tells_of_noise(each)]
    table = np.full((len(same), SEEDS), np.nan)
    for row, proposal in enumerate(same):
        for seed, value in _values(proposal.runs).items():
            if seed in base:
                table[row, seed] = _sign(campaign.declaration) * (value - base[seed])
    there = ~np.isnan(table).all(1)
    return noise_of(table[there], [each.number for each, is_there in zip(same, there, strict=True) if is_there])


def _tells_of_noise(proposal: Proposal) -> bool:
    return bool(proposal.runs) and not any(run.again for run in proposal.runs)


def _values(runs: Sequence[JudgedRun]) -> dict[int, float]:
    return {run.seed: run.value for run in runs if run.value is not None and math.isfinite(run.value)}


def _sign(declared: Declaration) -> int:
    return -1 if declared.direction == "min" else 1


def _said(
    evidence: Evidence, improvements: list[float], order: Sequence[int], declared: Declaration, level: float
) -> Node:
    """The numbers of a judgement, improvements as effects: of a metric that is to fall they are below zero."""
    sign = _sign(declared)
    ends = [None if end is None else sign * end for end in (evidence.low, evidence.high)]
    return {
        "effect": None if evidence.improvement is None else sign * evidence.improvement,
        "interval": tuple(ends if sign > 0 else reversed(ends)),
        "difference": sign * float(np.mean(improvements)) if improvements else None,
        "deviation": evidence.deviation,
        "e_value": evidence.e_value,
        "p_value": evidence.p_value,
        "level": level,
        "seeds": tuple(order[: evidence.seeds]),
    }
