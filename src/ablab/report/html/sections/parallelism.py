"""What spreading a run over several processes cost and brought."""

from __future__ import annotations

from ablab.report.context import ReportContext
from ablab.report.extrapolation import extrapolation_notes, extrapolation_table
from ablab.report.formatting import confidence
from ablab.report.html.sections.base import Block, Section, per_task
from ablab.report.parallel import parallel_notes, parallel_table
from ablab.report.tables import quality_table

_BROUGHT = ("tokens/s", "efficiency", "waiting", "largest peak memory")
_INTRO = (
    "What a process hands to collectives (payload) and what it sends to others in a training step: means over "
    "processes, steps and the runs that ended well, without evaluation, checkpoints and set-up. What is sent is what "
    "the algorithm that sends least would send, a ring. The float32 gradient, which plain data parallel training hands "
    "in once a step, is 4 bytes for each trainable parameter. Overlap is the share of the time in communication in "
    "which the thread that trains computed, waiting the share of a step in which it did not. Efficiency is tokens a "
    "second over those of one process with the same batch in all, seed by seed. The largest peak memory is that of the "
    "process that needed most."
)


def parallelism(context: ReportContext) -> Section | None:
    """None where every run was of one process."""
    interval = f"{confidence(context.comparisons.level)} CI"

    def blocks(task: str) -> list[Block]:
        table = parallel_table(context, task)
        if table.empty:
            return []
        quality = quality_table(context, task)
        table = table.merge(quality[["variant", "effect", interval]], on="variant", how="left")
        outcome = ["variant", "processes", "effect", interval, *_BROUGHT]
        further = extrapolation_table(context, task)
        notes = extrapolation_notes(context, task)
        model = [Block(title="On other links and more devices", table=further, lines=notes)]
        return [
            Block(title="Sent in a step", table=table[[name for name in table if name not in outcome[2:]]]),
            Block(title="What it brought", table=table[outcome], lines=parallel_notes(context, task)),
            *(model if not further.empty else []),
        ]

    made = per_task(context, blocks)
    return Section("parallelism", "Parallelism", _INTRO, made) if made else None
