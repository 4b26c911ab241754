"""What a ladder says of more compute than was spent."""

from __future__ import annotations

from ablab.analysis.over_scale.study import LadderFindings
from ablab.report.context import ReportContext
from ablab.report.figures.over_scale import KEY, effects_ahead, laws
from ablab.report.html.blocks import Block, Section, to_svg
from ablab.report.over_scale import (
    TIMES,
    effects_table,
    held_out_sentence,
    law_sentence,
    scale_line,
    scale_table,
)
from ablab.report.sentences import interval_name

_INTRO = (
    f"Does what was found hold at {TIMES} times the largest compute? HOLDS: the sign there is shown, and it is that of "
    "now. FADES: less than half of the effect is shown to be left. REVERSES: the sign there is shown, and is contrary. "
    "UNKNOWN: none of these is. All variants are one family, at the level of the study for false HOLDS and REVERSES "
    "together, and for false FADES. The gain is by how much more compute the baseline would do as well. "
    "Placebos have no verdict here: their floor is told of each size."
)


def over_scale(context: ReportContext) -> Section | None:
    """None where the study has no ladder."""
    found = context.over_scale
    blocks = [block for place, each in enumerate(found) for block in _blocks(context, each, place, len(found) > 1)]
    if not blocks:
        return None
    return Section("over-scale", "Over scale", f"{_INTRO} {held_out_sentence(found)}".strip(), blocks)


def _blocks(context: ReportContext, found: LadderFindings, place: int, several: bool) -> list[Block]:
    law = [f"LAW  {law_sentence(found)}"]
    title = found.ladder.task if several else ""
    styles = context.styles
    spread = f"± is half of the {interval_name(context.comparisons)} of each."
    return [
        Block(title=title, figure=to_svg(laws(found, styles), f"laws-{place}"), lines=law, sub=several),
        Block(text=KEY, figure=to_svg(effects_ahead(found, styles), f"ahead-{place}"), sub=several),
        Block(
            title="Verdicts over scale",
            table=scale_table(found),
            lines=[scale_line(each) for each in found.items],
            sub=several,
        ),
        Block(title="Effects by size", text=spread, table=effects_table(found), sub=several),
    ]
