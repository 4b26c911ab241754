"""What is said of a campaign: the verdict on a proposal in sentences and as JSON, and the ledger as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablab.analysis.campaign_rule import CONFIDENCE_LEVEL, FEWEST
from ablab.analysis.campaign_verdict import Judgement, level_of
from ablab.analysis.study_notes import DirectionByName
from ablab.report.study_notes import study_note_text
from ablab.results.campaign import Campaign, Proposal

JSON_SCHEMA = 1
EXIT_STATUS = {"KEEP": 0, "DISCARD": 1, "MORE SEEDS": 3}

_WHY = {
    "better": "better than the baseline",
    "futile": "not better, by the seeds that there are",
    "not shown": "not shown to be better in all seeds that a campaign has",
    "no effect": "without an effect",
    "diverged": "diverged",
    "failed": "failed",
    "certificate": "the certificate failed",
    "runs": "undecided: the same command goes on",
    "limit": "undecided: a run met a limit of this machine, and the same command makes it again",
}


def judgement_text(campaign: Campaign, proposal: Proposal, said: Judgement, runs_made: int, from_ledger: bool) -> str:
    """The verdict in a few lines, the word of it first."""
    detail = f" ({said.detail})" if said.detail else ""
    lines = [f"{said.decision:<10}  {proposal.label}: {_WHY.get(said.reason, said.reason)}{detail}."]
    if said.effect is not None:
        lines.append(_effect(campaign, said))
    lines += _direction(campaign)
    lines.append(_level(proposal, said))
    if unequal := _unequal(campaign, proposal):
        lines.append(unequal)
    lines += [_certificate(proposal)] if proposal.certificate else []
    made = "from the ledger; nothing was run" if from_ledger else f"{_runs(runs_made)} by this command"
    lines.append(f"{made}; {accounting(campaign)}")
    return "\n".join([lines[0], *(f"{'':12}{line}" for line in lines[1:])]) + "\n"


def _effect(campaign: Campaign, said: Judgement) -> str:
    metric, (low, high) = campaign.declaration.metric, said.interval
    ends = "of any size" if low is None or high is None else f"{low:+.4g} to {high:+.4g}"
    margin = f"; margin {campaign.declaration.margin:g}" if campaign.declaration.margin else ""
    spread = "" if said.deviation is None else f"; a paired difference has an sd of {said.deviation:.2g}"
    confidence = f"{100 * (1 - CONFIDENCE_LEVEL):g}% CI"
    wide = _KEPT_THOUGH_WIDE if said.decision == "KEEP" and not _excludes_no_gain(campaign, said) else ""
    return f"{metric} {said.effect:+.4g} ({confidence} {ends}, whenever one stops){margin}{spread}{wide}."


_KEPT_THOUGH_WIDE = (
    "; kept by its e-value: the interval, which has two sides and counts a wild seed in full, does not leave out that "
    "it is no better"
)


def _excludes_no_gain(campaign: Campaign, said: Judgement) -> bool:
    low, high = said.interval
    least = low if campaign.declaration.direction == "max" else None if high is None else -high
    return least is not None and least > campaign.declaration.margin


def _direction(campaign: Campaign) -> list[str]:
    """Which values are better, where no task has declared it."""
    declared = campaign.declaration
    return [study_note_text(DirectionByName(declared.metric, declared.direction))] if declared.by_name else []


def _level(proposal: Proposal, said: Judgement) -> str:
    seeds = f"seeds {', '.join(map(str, said.seeds))}" if said.seeds else "no seed was run"
    needed = f"e-value {said.e_value:.3g} of {1 / said.level:.3g} needed"
    tested = f"{needed} (p = {said.p_value:.2g}, level {said.level:.2g})" if said.effect is not None else ""
    return "; ".join(part for part in (f"proposal {proposal.number}: {seeds}", tested) if part) + "."


def _unequal(campaign: Campaign, proposal: Proposal) -> str:
    """What a reader should know of what it costs, where that is not what the baseline costs."""
    base = campaign.baseline_runs[proposal.baseline - 1]
    own, other = next(iter(proposal.runs), None), next(iter(base), None)
    found = []
    for name, word in (("flops", "FLOPs"), ("parameters", "parameters")):
        mine, theirs = getattr(own, name, None), getattr(other, name, None)
        if mine and theirs and abs(mine / theirs - 1) > _EQUAL:
            found.append(f"{100 * (mine / theirs - 1):+.0f}% {word}")
    return f"NOT AT EQUAL BUDGET  {', '.join(found)} against the baseline." if found else ""


_EQUAL = 0.02  # of the baseline's cost


def _certificate(proposal: Proposal) -> str:
    assert proposal.certificate is not None
    checks = proposal.certificate["checks"]
    failed = [check["name"] for check in checks if check["outcome"] == "fail"]
    said = f"failed ({', '.join(failed)})" if failed else "passed"
    return f"certificate {said}: {len(checks)} checks in {proposal.certificate['seconds']:.0f} s."


def accounting(campaign: Campaign) -> str:
    """The campaign in a sentence: what was proposed, what is kept, and what that means."""
    kept, discarded, left = (campaign.count(word) for word in ("KEEP", "DISCARD", "MORE SEEDS"))
    count = len(campaign.proposals)
    return (
        f"so far {count} proposal{'' if count == 1 else 's'}: {kept} kept, {discarded} discarded, {left} open; "
        f"{_runs(campaign.runs)}; of all that is kept at most {100 * campaign.declaration.level:g}% is false, "
        "on average."
    )


def _runs(number: int) -> str:
    return f"{number} run{'' if number == 1 else 's'}"


def judgement_json(
    folder: Path, campaign: Campaign, proposal: Proposal, said: Judgement, runs_made: int, from_ledger: bool
) -> dict[str, Any]:
    """The verdict for programs. What is not known is null."""
    declared = campaign.declaration
    return {
        "schema": JSON_SCHEMA,
        **said.to_dict(),
        "confidence": 1 - CONFIDENCE_LEVEL,
        "e_value_needed": 1 / said.level,
        "fewest_seeds": FEWEST,
        "metric": declared.metric,
        "direction": declared.direction,
        "direction_by_name": declared.by_name,
        "margin": declared.margin,
        "proposal": {
            "number": proposal.number,
            "identity": proposal.identity,
            "label": proposal.label,
            "overrides": proposal.overrides,
            "sources": proposal.sources,
        },
        "certificate": proposal.certificate,
        "not_at_equal_budget": _unequal(campaign, proposal) or None,
        "from_ledger": from_ledger,
        "runs": {"this_call": runs_made, "proposal": len(proposal.runs), "campaign": campaign.runs},
        "campaign": {"folder": str(folder), **campaign_summary(campaign)},
    }


def campaign_summary(campaign: Campaign) -> dict[str, Any]:
    """The accounting of a campaign as plain data."""
    declared = campaign.declaration
    return {
        "baseline": campaign.baseline.overrides,
        "baselines": len(campaign.baselines),
        "level": declared.level,
        "planned_proposals": declared.proposals,
        "proposals": len(campaign.proposals),
        "kept": campaign.count("KEEP"),
        "discarded": campaign.count("DISCARD"),
        "open": campaign.count("MORE SEEDS"),
        "runs": campaign.runs,
        "baseline_runs": sum(map(len, campaign.baseline_runs)),
    }


def campaign_json(folder: Path, campaign: Campaign) -> dict[str, Any]:
    """The whole ledger for programs."""
    rows = [
        {
            "number": each.number,
            "label": each.label,
            "identity": each.identity,
            "decision": each.decision,
            "seeds": len(each.runs),
            **{name: (each.verdict or {}).get(name) for name in _NUMBERS},
        }
        for each in campaign.proposals
    ]
    head = {"schema": JSON_SCHEMA, "folder": str(folder), "metric": campaign.declaration.metric}
    return {**head, **campaign_summary(campaign), "ledger": rows}


_NUMBERS = ("reason", "effect", "interval", "e_value", "p_value", "level")


def campaign_table(campaign: Campaign) -> str:
    """The ledger, a row for each proposal, and the accounting below it."""
    declared = campaign.declaration
    heads = ("", "proposal", "decision", "seeds", f"effect on {declared.metric}", "95% CI", "e-value", "needed", "why")
    rows = [_row(campaign, each) for each in campaign.proposals]
    margin = f", by more than {declared.margin:g}" if declared.margin else ""
    base = " ".join(campaign.baseline.overrides) or "the default config"
    falling = "lower" if declared.direction == "min" else "higher"
    says = [
        f"baseline: {base}; kept is what has a {falling} {declared.metric}{margin}.",
        *_direction(campaign),
        accounting(campaign),
        f"A new proposal needs an e-value of {1 / level_of(_next(campaign), campaign):.0f}; "
        f"{sum(map(len, campaign.baseline_runs))} runs were the baseline's.",
    ]
    return "\n".join([*_aligned([heads, *rows]), "", *says]) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first row underlined, columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _next(campaign: Campaign) -> Proposal:
    return Proposal(number=len(campaign.proposals) + 1, identity="", label="", overrides=[])


def _row(campaign: Campaign, proposal: Proposal) -> Sequence[str]:
    told = Judgement.from_dict(proposal.verdict) if proposal.verdict else None
    first = [str(proposal.number), proposal.label, proposal.decision, str(len(proposal.runs))]
    if told is None:
        return [*first, "", "", "", f"{1 / level_of(proposal, campaign):.0f}", ""]
    low, high = told.interval
    return [
        *first,
        "" if told.effect is None else f"{told.effect:+.4g}",
        "" if low is None or high is None else f"{low:+.3g} to {high:+.3g}",
        "" if told.effect is None else f"{told.e_value:.3g}",
        f"{1 / told.level:.0f}",
        _WHY.get(told.reason, told.reason),
    ]
