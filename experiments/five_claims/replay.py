"""What planned looks would have saved: the kept results once more, seed by seed, as if they came in.

    python experiments/five_claims/replay.py  # prints the table, and writes replay.md

Each study is looked at after 3, 5, 8 and 10 seeds, as far as it has so many, at the boundary of those looks. Who is
decided gets no further seeds; the baseline stays until all are. What is then concluded is held against what the same
study concludes from all of its seeds, looked at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ablab.analysis.comparison import Comparison, Comparisons, compare
from ablab.analysis.verdicts import RESOLVED, Verdict
from ablab.report.context import declared_comparison
from ablab.results.collect import Runs, collect

HERE = Path(__file__).parent
KEPT = [HERE / "results", HERE / "results_gpu", HERE.parent / "results"]
LOOKS = (3, 5, 8, 10)
DECIDED = RESOLVED | {Verdict.EQUIVALENT, Verdict.NO_EFFECT, Verdict.NOT_COMPARABLE, Verdict.UNSTABLE}

Cell = tuple[str, str]  # a task, or the suite of them, and a variant


@dataclass(frozen=True)
class Replay:
    """One study, as it was and as it would have been."""

    study: str
    looks: tuple[int, ...]
    runs: int
    needed: int
    whole: dict[Cell, Verdict]
    replayed: dict[Cell, Verdict]

    @property
    def same(self) -> int:
        return sum(self.replayed[cell] is verdict for cell, verdict in self.whole.items())

    @property
    def changed(self) -> dict[str, int]:
        """How often one verdict became another."""
        pairs = [f"{a} -> {self.replayed[cell]}" for cell, a in self.whole.items() if self.replayed[cell] is not a]
        return {pair: pairs.count(pair) for pair in dict.fromkeys(pairs)}


def replay(file: Path, most: int | None = None) -> Replay | None:
    """Replay the study in a kept file; None for one of too few seeds, or one variant."""
    runs = replace(collect([file]), interim_analyses=())
    seeds = sorted({record.seed for record in runs.records})
    looks = (*(look for look in LOOKS if look < len(seeds)), len(seeds))
    if len(looks) < 2 or len(runs.variants) < 2:
        return None
    settings = declared_comparison([file])
    whole = compare(_declaring(runs, None), **settings)
    planned = _declaring(runs, {"looks": list(looks), "max": len(seeds), "spending": "pocock"})
    until: dict[Cell, int] = {}  # how many seeds each variant on a task was given
    found: dict[Cell, Verdict] = {}
    going = set(runs.places)
    for look in looks:
        until |= dict.fromkeys(going, look)
        at = [
            place
            for cell, places in runs.places.items()
            for place in places
            if runs.records[place].seed in seeds[: until[cell]]
        ]
        seen = compare(planned.at(sorted(at)), **settings)
        found = _verdicts(seen)
        going = _open(seen, runs)
        if not going:
            break
    needed = sum(
        runs.records[place].seed in seeds[: until[cell]] for cell in runs.places for place in runs.places[cell]
    )
    return Replay(_name(file), looks, len(runs.records), needed, _verdicts(whole), found)


def _declaring(runs: Runs, plan: dict[str, object] | None) -> Runs:
    return replace(runs, records=[replace(record, planned_looks=plan, looks=[]) for record in runs.records])


def _verdicts(comparisons: Comparisons) -> dict[Cell, Verdict]:
    return {(item.task, item.variant): item.verdict for item in (*comparisons.items, *comparisons.suite)}


def _open(comparisons: Comparisons, runs: Runs) -> set[Cell]:
    """The variants on tasks that get further seeds: those of comparisons that are open, and their baselines."""
    on_tasks = {(item.task, item.variant) for item in comparisons.items if _is_open(item)}
    on_suite = {(task, item.variant) for item in comparisons.suite if _is_open(item) for task in runs.tasks}
    open_cells = on_tasks | on_suite
    return open_cells | {(task, comparisons.baseline) for task, _ in open_cells}


def _is_open(item: Comparison) -> bool:
    return item.verdict not in DECIDED


def table(found: Sequence[Replay]) -> str:
    """As Markdown, with a row for all of them."""
    rows = [
        {
            "study": each.study,
            "looks": ", ".join(map(str, each.looks)),
            "comparisons": len(each.whole),
            "same verdict": f"{each.same} ({each.same / len(each.whole):.0%})",
            "runs": f"{each.needed} of {each.runs} ({each.needed / each.runs:.0%})",
            "what changed": "; ".join(f"{count} {pair}" for pair, count in each.changed.items()),
        }
        for each in found
    ]
    comparisons, same = sum(len(each.whole) for each in found), sum(each.same for each in found)
    needed, runs = sum(each.needed for each in found), sum(each.runs for each in found)
    rows.append(
        {
            "study": "all",
            "looks": "",
            "comparisons": comparisons,
            "same verdict": f"{same} ({same / comparisons:.1%})",
            "runs": f"{needed} of {runs} ({needed / runs:.1%})",
            "what changed": "",
        }
    )
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _name(file: Path) -> str:
    study = file.name.removesuffix(".jsonl.xz")
    return study if file.parent.name == "results" else f"{study} ({file.parent.name})"


def files() -> Iterator[Path]:
    for folder in KEPT:
        yield from sorted(folder.glob("*.jsonl.xz"))


def main(places: Iterable[Path]) -> None:
    found = [each for file in places if (each := replay(file))]
    shown = table(found)
    print(shown)
    (HERE / "replay.md").write_text(shown + "\n", encoding="utf-8")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]] or files())
