"""Seed by seed: what the pairing rests on."""

from __future__ import annotations

from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.html.sections.base import Block, Section, per_task, svg


def pairs(context: ReportContext) -> Section | None:
    """None where no seed was run with both."""

    def blocks(task: str) -> list[Block]:
        drawn = svg(context, drawings.slopes(context, task), "pairs", task)
        return [Block(figure=drawn)] if drawn else []

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
