"""What planned looks would have saved: the kept results once more, seed by seed, as if they came in.

    python experiments/five_claims/replay.py  # prints the tables, and writes replay.md

Each study is looked at after 3, 5, 8 and 10 seeds, as far as it has so many, at the boundary of those looks. What is
decided, and what has become improbable to be, gets no further seeds, as with `seed=auto`; the baseline stays until all
are done. What is then concluded is held against what the same study concludes from all of its seeds, looked at once.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ablab.analysis.comparison import Comparisons, compare
from ablab.analysis.decisions import decide
from ablab.analysis.verdicts import Verdict
from ablab.config import ComparisonConfig, Node
from ablab.config.seeds import SeedsConfig
from ablab.report.declared import declared_comparison
from ablab.results.collect import Runs, collect
from ablab.study.seed_blocks import OPEN

HERE = Path(__file__).parent
KEPT = [HERE / "results", HERE / "results_gpu", HERE.parent / "results"]
LOOKS = (3, 5, 8, 10)
DESIGNS = [
    (looks, spending) for looks in (LOOKS, (3, 4, 5, 8, 10), (4, 6, 8, 10)) for spending in ("pocock", "obrien_fleming")
]

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
    def changed(self) -> Counter[str]:
        """How often one verdict became another."""
        pairs = [(verdict, self.replayed[cell]) for cell, verdict in self.whole.items()]
        return Counter(f"{before} -> {after}" for before, after in pairs if before is not after)


def replay(file: Path, looks_at: Sequence[int] = LOOKS, spending: str = "pocock") -> Replay | None:
    """Replay the study in a kept file; None for one of too few seeds, or one variant."""
    runs = replace(collect([file]), interim_analyses=())
    seeds = sorted({record.seed for record in runs.records})
    looks = [*(look for look in looks_at if look < len(seeds)), len(seeds)]
    if len(looks) < 2 or len(runs.variants) < 2:
        return None
    settings, plan = declared_comparison([file]), SeedsConfig(max=len(seeds), looks=looks, spending=spending)
    declared = ComparisonConfig(**{name: settings.get(name) for name in ("metric", "margin")})  # type: ignore[arg-type]
    planned = _declaring(runs, plan.plan_of_looks)
    until: dict[Cell, int] = {}  # how many seeds each variant on a task was given
    going, settled = set(runs.places), set[object]()
    for look in looks:
        until |= dict.fromkeys(going, look)
        seen = planned.at(sorted(place for place in _within(runs, seeds, until)))
        new = [each for each in decide(seen, plan, declared) if each.of not in settled]
        settled |= {each.of for each in new if each.how != OPEN}
        going = {cell for each in new if each.how == OPEN for cell in (*each.cells, *each.baselines)}
        if not going:
            break
    return Replay(
        _name(file),
        tuple(looks),
        len(runs.records),
        len(_within(runs, seeds, until)),
        _verdicts(compare(_declaring(runs, None), **settings)),
        _verdicts(compare(planned.at(sorted(_within(runs, seeds, until))), **settings)),
    )


def _within(runs: Runs, seeds: Sequence[int], until: Mapping[Cell, int]) -> list[int]:
    """The places of the runs on the first so many seeds of each variant on a task."""
    return [
        place
        for cell, places in runs.places.items()
        for place in places
        if runs.records[place].seed in seeds[: until[cell]]
    ]


def _declaring(runs: Runs, plan: Node | None) -> Runs:
    return replace(runs, records=[replace(record, planned_looks=plan, looks=[]) for record in runs.records])


def _verdicts(comparisons: Comparisons) -> dict[Cell, Verdict]:
    return {(item.task, item.variant): item.verdict for item in (*comparisons.items, *comparisons.suite)}


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
    return _markdown([*rows, {"study": "all", **_sums(found), "what changed": ""}])


def _sums(found: Sequence[Replay]) -> dict[str, str]:
    comparisons, same = sum(len(each.whole) for each in found), sum(each.same for each in found)
    needed, runs = sum(each.needed for each in found), sum(each.runs for each in found)
    return {
        "looks": "",
        "comparisons": str(comparisons),
        "same verdict": f"{same} ({same / comparisons:.0%})",
        "runs": f"{needed} of {runs} ({needed / runs:.0%})",
    }


def designs(files: Sequence[Path]) -> str:
    """Other looks and boundaries on all studies together, as Markdown."""
    rows = []
    for looks, spending in DESIGNS:
        found = [each for file in files if (each := replay(file, looks, spending))]
        changed = Counter(change for each in found for change in each.changed.elements())
        rows.append(
            _sums(found)
            | {"looks": f"{', '.join(map(str, looks))}; {spending}"}
            | {"what changed": "; ".join(f"{count} {pair}" for pair, count in changed.most_common())}
        )
    return _markdown(rows)


def _markdown(rows: Sequence[Mapping[str, object]]) -> str:
    return str(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))


def _name(file: Path) -> str:
    study = file.name.removesuffix(".jsonl.xz")
    return study if file.parent.name == "results" else f"{study} ({file.parent.name})"


def files() -> Iterator[Path]:
    for folder in KEPT:
        yield from sorted(folder.glob("*.jsonl.xz"))


def main(places: Sequence[Path]) -> None:
    found = [each for file in places if (each := replay(file))]
    shown = f"{table(found)}\n\n{designs(places)}"
    print(shown)
    (HERE / "replay.md").write_text(shown + "\n", encoding="utf-8")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]] or list(files()))
