"""What a ladder of kept runs says at ten times its compute: the table of README.md, and the pictures.

python experiments/ladder/summary.py                    # of ladder.jsonl.xz beside this file
python experiments/ladder/summary.py outputs/ladder     # of a folder of runs
python experiments/ladder/summary.py --pictures         # also laws.png and effects.png, beside this file
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
KEPT = HERE / "ladder.jsonl.xz"


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


def draw(context: ReportContext) -> None:
    (found,) = context.over_scale
    for name, shown in (("laws", laws(found, context.styles)), ("effects", effects_ahead(found, context.styles))):
        if shown is not None:
            (HERE / f"{name}.png").write_bytes(shown.figure.png())


def main(words: Sequence[str]) -> None:
    places = [Path(word) for word in words if not word.startswith("--")] or [KEPT]
    context = ReportContext.read(places)
    print(summary(context))
    if "--pictures" in words:
        draw(context)


if __name__ == "__main__":
    main(sys.argv[1:])
