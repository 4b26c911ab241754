"""The verdicts, and what they rest on: how large each effect is, seed by seed, and what the seeds could have shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from ablab.analysis.comparison import Comparison
from ablab.analysis.power import MOST_SEEDS, POWER, detectable, seeds_needed
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.formatting import MISSING, decimals_for, number, plural, share
from ablab.report.html.blocks import Block, Section, per_task, svg
from ablab.report.html.sections.pairing import earned_blocks
from ablab.report.sentences import interval_name, margin_name
from ablab.report.study_notes import interval_lines, pairing_text, study_notes
from ablab.report.tables import quality_table


@dataclass(frozen=True)
class Verdicts:
    """The first screen of the report."""

    glance: str  # all of them in a sentence
    groups: list[tuple[str, list[Comparison]]]  # (task, its verdicts)
    notes: list[str]  # about the comparison as a whole


def verdicts(context: ReportContext) -> Verdicts:
    names = [context.suite, *context.tasks] if context.suite else context.tasks
    groups, made = [(name, context.compared(name)) for name in names], context.comparisons
    earned = [pairing_text(made.earned)] if made.earned else []
    return Verdicts(_glance(context, groups), groups, [*interval_lines(made), *study_notes(made), *earned])


def _glance(context: ReportContext, groups: list[tuple[str, list[Comparison]]]) -> str:
    """Count the verdicts; those of the suite, where there is one: they are the primary ones."""
    groups = groups[:1] if context.suite else groups
    counts = Counter(item.verdict.value for _, items in groups for item in items)
    if not counts:
        return ""
    kinds = ", ".join(f"{count} {kind.lower()}" for kind, count in counts.items())
    seeds = plural(len({record.seed for record in context.runs.records}), "seed")
    where = f" on the {context.suite}" if context.suite else ""
    where = f" on {plural(len(groups), 'task')}" if len(groups) > 1 else where
    return f"{plural(counts.total(), 'comparison')}{where} over {seeds}: {kinds}."


_NO_EFFECT = "No effect to draw: no variant shares a finished seed with the baseline."
_ONE_VARIANT = "No effect to draw: there is one variant."


def effects(context: ReportContext) -> Section:
    def blocks(task: str) -> list[Block]:
        drawn = svg(context, drawings.forest(context, task), "effects", task)
        none = _ONE_VARIANT if len(context.variants) == 1 else _NO_EFFECT
        return [Block(figure=drawn, otherwise=none, table=quality_table(context, task, both=True))]

    return Section(
        "effects",
        "Effects",
        _intro(context) if context.comparisons.items else "",
        per_task(context, blocks, suite=True),
    )


def _intro(context: ReportContext) -> str:
    margin = next((margin_name(item) for item in context.comparisons.items if item.margin), None)
    band = f"; a grey band is the {margin}" if margin else ""
    return (
        f"Points are means over paired seeds, bars their {interval_name(context.comparisons)}, ticks single seeds. "
        f"A filled marker is a resolved verdict{band}."
    )


def pairs(context: ReportContext) -> Section | None:
    """None where no seed was run with both."""

    def blocks(task: str) -> list[Block]:
        drawn = svg(context, drawings.slopes(context, task), "pairs", task)
        return [Block(figure=drawn), *earned_blocks(context, task)] if drawn else []

    made = per_task(context, blocks, suite=True)
    if not made:
        return None
    return Section(
        "pairs",
        "Seed by seed",
        "Each line is a seed, from the baseline to the variant: solid where the variant did better, dashed where it "
        "did not. r is the correlation over seeds that the pairing earned: where lines run side by side, a small "
        "effect shows.",
        made,
    )


def power(context: ReportContext) -> Section | None:
    """None where no comparison has an interval."""

    def blocks(task: str) -> list[Block]:
        items = [item for item in context.compared(task) if item.estimate and item.interval]
        drawn = svg(context, drawings.detectable(context, task), "power", task)
        return [Block(figure=drawn, table=pd.DataFrame(map(_power_row, items)))] if items else []

    made = per_task(context, blocks, suite=True)
    if not made:
        return None
    return Section(
        "power",
        "What these seeds could have detected",
        f"An effect at the end of its bar would have been resolved in {POWER:.0%} of studies like this one, if it were "
        "the only one among their comparisons; smaller ones would mostly have been missed. The marker is the size of "
        "the effect that was found, filled where its verdict is resolved. Seeds to resolve a margin are a range, since "
        "the spread is known only roughly; what was found is known too roughly for one.",
        made,
    )


def _power_row(item: Comparison) -> dict[str, str]:
    assert item.estimate is not None
    limit = detectable(item.estimate, item.share_level)
    digits = decimals_for(limit)
    wanted = abs(item.margin or item.effect or 0.0)
    known = bool(wanted) and not item.estimate.tied
    return {
        "variant": item.label,
        "seeds": str(item.estimate.pairs),
        "r": MISSING if item.correlation is None else share(item.correlation),
        "sd of differences": number(item.estimate.sd, digits),
        "detectable": number(limit, digits),
        "found": number(item.effect or 0.0, digits, signed=True),
        f"seeds to resolve {'the margin' if item.margin else 'what was found'}": _needed(item, wanted)
        if known
        else MISSING,
    }


def _needed(item: Comparison, wanted: float) -> str:
    assert item.estimate is not None
    about, least, most = (
        f"over {MOST_SEEDS:,}" if seeds >= MOST_SEEDS else f"{seeds:,}"
        for seeds in seeds_needed(wanted, item.estimate, item.share_level, item.own_estimate)
    )
    return about if least == most or item.margin is None else f"{about} ({least} to {most})"
