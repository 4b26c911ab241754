"""Arms that cannot matter, and the floor that they show."""

from __future__ import annotations

from ablab.report.context import ReportContext
from ablab.report.html.blocks import Block, Section, per_task
from ablab.report.placebos import placebo_table


def placebos(context: ReportContext) -> Section | None:
    """None where the study has none."""

    def blocks(part: str) -> list[Block]:
        table = placebo_table(context, part)
        return [] if table.empty else [Block(table=table)]

    made = per_task(context, blocks, suite=True)
    if not made:
        return None
    return Section(
        "placebos",
        "Placebos",
        "Arms that cannot matter, each compared with what it is a copy of, by itself and in no family of the study's "
        "claims. Their largest mean difference is the floor: no effect below it is claimed. About one in twenty comes "
        "out resolved by chance.",
        made,
    )
