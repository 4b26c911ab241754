"""What the further studies of the claims say, those whose results are kept: a table.

    python experiments/five_claims/further.py               # of the files in `results`
    python experiments/five_claims/further.py outputs/mine  # of the studies' folders, or files, in another place

A row is one comparison on the test split: the verdict within its study, and the one over all rows of the table, which
is stricter the more studies there are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ablab import load
from ablab.analysis.comparison import Comparison
from ablab.analysis.conclusions import as_one_family
from ablab.report.formatting import confidence

HERE = Path(__file__).parent
FURTHER = {  # the claim that each answers an objection to
    "attention_plateau": 1,
    "activation_tuned": 2,
    "schedule_tuned": 3,
    "fusion_twenty": 4,
    "parallel_tuned": 5,
    "layers_overfit": 6,
}


@dataclass(frozen=True)
class Row:
    study: str
    item: Comparison
    level: float


def rows(results: Path) -> list[Row]:
    """Each comparison of the studies that there are: on a task, and on all of a study's tasks together."""
    found = []
    for name in FURTHER:
        place = next((path for path in (results / f"{name}.jsonl.xz", results / name) if path.exists()), None)
        if place is not None:
            compared = load(place).comparisons
            found += [Row(name, item, compared.level) for item in (*compared.items, *compared.suite)]
    return found


def table(found: Sequence[Row]) -> str:
    """As Markdown; empty where none of the studies has been run."""
    lines = []
    for row, over_all in zip(found, as_one_family([row.item for row in found]), strict=True):
        item = row.item
        low, high = item.interval or (float("nan"), float("nan"))
        effect = float("nan") if item.effect is None else item.effect
        lines.append(
            {
                "claim": FURTHER[row.study],
                "study": f"`{row.study}`",
                "variant": f"`{item.label}`",
                "task": item.task,
                "metric": item.metric,
                "verdict": f"{item.verdict.value} {effect:+.3f} ({low:+.3f} to {high:+.3f})",
                f"over all {len(found)}": over_all.verdict.value,
                "interval": confidence(row.level),
                "seeds": len(item.seeds),
            }
        )
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


if __name__ == "__main__":
    print(table(rows(next(map(Path, sys.argv[1:]), HERE / "results"))))
