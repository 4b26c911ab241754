"""What ladders of kept runs say at ten times their compute: the tables of README.md, and the pictures.

python experiments/ladder/summary.py                         # of the kept ladders beside this file
python experiments/ladder/summary.py outputs/ladder_rope     # of a folder of runs
python experiments/ladder/summary.py --pictures              # also the pictures, beside this file
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ablab.analysis.over_scale.study import LadderFindings
from ablab.report.context import ReportContext
from ablab.report.figures.over_scale import effects_ahead, laws
from ablab.report.formatting import count
from ablab.report.over_scale import effects_table, held_out_sentence, law_sentence, scale_table

HERE = Path(__file__).parent
KEPT = [HERE / f"{name}.jsonl.xz" for name in ("ladder_llama", "ladder_rope", "ladder")]


def sizes_table(found: LadderFindings) -> pd.DataFrame:
    """What each size is, with the baseline's loss there."""
    ladder = found.ladder
    rows = []
    for rung in ladder.rungs:
        values = ladder.values[ladder.baseline, rung.name].values()
        rows.append(
            {
                "size": rung.name,
                "parameters": count(rung.parameters),
                "tokens": count(rung.tokens),
                "FLOPs": count(rung.flops),
                ladder.metric: f"{sum(values) / len(values):.3f}",
                "runs": str(len([p for p in ladder.points if p.rung == rung.name and not p.on_the_way])),
            }
        )
    return pd.DataFrame(rows)


def summary(context: ReportContext) -> str:
    """Tables and sentences as Markdown."""
    (found,) = context.over_scale
    verdicts = Counter(item.verdict.value for item in found.items)
    said = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common())
    tables = [sizes_table(found), scale_table(found), effects_table(found)]
    return "\n\n".join(
        [
            *(table.to_markdown(index=False, disable_numparse=True) for table in tables),
            f"Of {len(found.items)} components {said}.",
            held_out_sentence(context.over_scale),
            law_sentence(found),
        ]
    )


def together(contexts: Sequence[ReportContext]) -> str:
    """How the largest sizes of all ladders came out."""
    return held_out_sentence([found for context in contexts for found in context.over_scale])


def draw(context: ReportContext, name: str) -> None:
    (found,) = context.over_scale
    for kind, shown in (("laws", laws(found, context.styles)), ("effects", effects_ahead(found, context.styles))):
        if shown is not None:
            (HERE / f"{name}_{kind}.png").write_bytes(shown.figure.png())


def main(words: Sequence[str]) -> None:
    places = [Path(word) for word in words if not word.startswith("--")] or KEPT
    contexts = [ReportContext.read([place]) for place in places]
    for context in contexts:
        print(summary(context), end="\n\n")
    if len(contexts) > 1:
        print(together(contexts))
    if "--pictures" in words:
        for place, context in zip(places, contexts, strict=True):
            draw(context, place.name.split(".")[0])


if __name__ == "__main__":
    main(sys.argv[1:])
