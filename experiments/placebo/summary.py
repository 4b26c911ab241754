"""How often a placebo came out resolved, over all kept comparisons: a table, and the share with its interval.

    python experiments/placebo/summary.py                 # of placebo.jsonl.xz beside this file
    python experiments/placebo/summary.py outputs/placebo # of a folder of runs

Each comparison has four seeds that no other one has, so that they are independent of each other.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd

from ablab.analysis.comparison import compare
from ablab.analysis.placebos import Placebo, share_interval
from ablab.results.collect import find_records, tabulate
from ablab.results.record import Record

HERE = Path(__file__).parent
KEPT = HERE / "placebo.jsonl.xz"
SEEDS = 4  # of a comparison


@dataclass(frozen=True)
class Found:
    """What the comparisons of a setting came to."""

    setting: str
    placebos: list[Placebo]

    @property
    def resolved(self) -> int:
        return sum(item.resolved for item in self.of("order"))

    def of(self, kind: str) -> list[Placebo]:
        return [item for item in self.placebos if item.kind == kind]

    def row(self) -> dict[str, object]:
        """Of the table, which is of those whose rounding differs."""
        single = [abs(each) for item in self.of("order") for each in item.comparison.differences]
        values = [value for item in self.of("order") for value in item.comparison.baseline_values]
        return {
            "setting": self.setting,
            "comparisons": len(self.of("order")),
            "resolved": self.resolved,
            "a seed's difference": f"{median(single):.2g} (up to {max(single):.2g})",
            "val_loss": f"{median(values):.3g}",
        }


def setting_of(record: Record) -> str:
    """The sizes and the rate that a run has and not all others."""
    task, model = record.config["task"], record.config["model"]
    rate = record.config["optimizer"]["lr"]
    return (
        f"{task['symbols']} symbols, {task['seq_len']} tokens, width {model['d_model']}, "
        f"{model['n_layers']} layers, rate {rate:g}"
    )


def comparisons(place: Path) -> Iterator[Found]:
    """Those of each setting whose runs have all ended well."""
    runs: dict[str, dict[int, list[tuple[Path, Record]]]] = defaultdict(lambda: defaultdict(list))
    for path, record in find_records([place]):
        runs[setting_of(record)][record.seed // SEEDS].append((path, record))
    for setting, groups in runs.items():
        complete = [each for _, each in sorted(groups.items()) if len(each) >= 2 * SEEDS]
        found = [compare(tabulate(each), metric="val_loss").placebos.items for each in complete]
        yield Found(setting, [item for items in found for item in items])


def summary(place: Path) -> str:
    """The table, and a sentence below it."""
    found = sorted(comparisons(place), key=lambda each: each.setting)
    count, resolved = sum(len(each.of("order")) for each in found), sum(each.resolved for each in found)
    low, high = share_interval(resolved, count)
    draws = [item for each in found for item in each.of("draw")]
    table = pd.DataFrame([each.row() for each in found]).to_markdown(index=False, disable_numparse=True)
    return (
        f"{table}\n\n{resolved} of {count} placebos with another order of sums came out resolved: "
        f"{resolved / count:.1%} (95% CI {low:.1%} to {high:.1%}). Of {len(draws)} with an unused draw "
        f"{sum(item.equal for item in draws)} were equal to the last bit on every seed, and none can be resolved."
    )


if __name__ == "__main__":
    print(summary(Path(sys.argv[1]) if len(sys.argv) > 1 else KEPT))
