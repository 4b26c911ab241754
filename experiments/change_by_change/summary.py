"""What the kept results say of each change: the tables of README.md, and a picture.

    python experiments/change_by_change/summary.py               # of the files in `results`
    python experiments/change_by_change/summary.py outputs/mine  # of the studies' folders, or files, in another place
    python experiments/change_by_change/summary.py --picture     # also changes.png, beside this file

Each change has three comparisons that decide: alone on the baseline, taken out of the full system, and upon the change
that was published before it, each over all sizes together. They are one family, by Holm's method. The picture shows
them, and beside them each change by itself on prose and at equal time, corrected within those studies.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import ablab
from ablab.analysis.comparison import Comparison
from ablab.analysis.conclusions import as_one_family

HERE = Path(__file__).parent
load = cache(ablab.load)  # several tables are of one study
DECIDING = 41  # comparisons that decide, also while some of their studies have not been run
COLOURS = {"BETTER": "#1a7f37", "WORSE": "#b42318", "EQUIVALENT": "#1f5fbf"}
TURNED = {"BETTER": "WORSE", "WORSE": "BETTER"}
SECONDARY = {  # each corrected within itself -> what of its costs stands beside the effects
    "prose": [],
    "retrieval": [],
    "same_cache": ["cache_bytes_8k", "decode_flops_8k"],
    "same_time": ["tokens"],
    "contested": ["processor_time_s"],
}
QUESTIONS = {"alone": "alone", "left_out": "taken out", "cumulative": "upon the one before"}
BESIDE = {"prose": "alone, on prose", "same_time": "alone, at equal time"}  # in the picture beside the questions
COSTS = {
    "tokens": "tokens trained on",
    "processor_time_s": "processor time of the run",
    "cache_bytes_8k": "bytes of the cache at 8k",
    "decode_flops_8k": "FLOPs of a token at 8k",
    "active_parameters": "active parameters",
}


@dataclass(frozen=True)
class Row:
    """One comparison that decides."""

    change: str
    question: str  # of QUESTIONS
    item: Comparison  # corrected over all rows, once `rows` has done so

    @property
    def verdict(self) -> str:
        return str(self.item.verdict.value)


def place_of(results: Path, study: str) -> Path | None:
    """The file of a study's results, or its folder."""
    return next((path for path in (results / f"{study}.jsonl.xz", results / study) if path.exists()), None)


def compared(results: Path) -> Iterator[Row]:
    """Each comparison that decides, not corrected over all of them yet."""
    for question in ("alone", "left_out"):
        if place := place_of(results, question):
            for item in together(load(place).comparisons):
                yield Row(item.label, question, item)
    if place := place_of(results, "cumulative"):
        for item in together(load(place, baseline="previous").comparisons):
            yield Row(item.label, "cumulative", item)


def together(comparisons: Any) -> Sequence[Comparison]:
    """Over all sizes, or at the one that there is."""
    found: Sequence[Comparison] = comparisons.suite or comparisons.items
    return found


def rows(results: Path) -> list[Row]:
    """Each comparison that decides, with its p values and its verdict over all of them."""
    found = list(compared(results))
    reserved = DECIDING - sum(row.item.estimate is not None for row in found)
    corrected = as_one_family([row.item for row in found], reserved)
    return [replace(row, item=item) for row, item in zip(found, corrected, strict=True)]


def effects_table(found: Sequence[Row], results: Path) -> pd.DataFrame:
    """A row for each change: what its comparisons in the full system decide, and all so far beside the baseline."""
    lines: dict[str, dict[str, str]] = {}
    for row in found:
        if row.question != "alone":
            line = lines.setdefault(row.change, {"change": f"`{row.change}`"})
            line[QUESTIONS[row.question]] = f"{row.verdict} {told(row.item)}"
    if place := place_of(results, "cumulative"):
        for item in together(load(place).comparisons):
            lines[item.label]["all so far, beside GPT-2"] = told(item)
    return pd.DataFrame(lines.values()).fillna("–")


def alone_table(found: Sequence[Row], place: Path) -> pd.DataFrame:
    """A row for each change: alone at each size, over all of them, and what is foreseen at ten times the compute."""
    study = load(place)
    ahead = {row["variant"]: row for row in study.over_scale().to_dict("records")}
    at_sizes: dict[str, dict[str, str]] = {}
    for item in study.comparisons.items:
        at_sizes.setdefault(item.label, {})[f"width {width(item.task)}"] = told(item)
    lines = []
    for row in found:
        if row.question == "alone":
            line = {"change": f"`{row.change}`", **at_sizes[row.change], "together": f"{row.verdict} {told(row.item)}"}
            line["at ten times the compute"] = ahead[row.change]["verdict"]
            lines.append(line)
    return pd.DataFrame(lines)


def width(task: str) -> str:
    """Of a ladder's size, as its label says it: "code,d_model=24,n_layers=2"."""
    return task.partition("d_model=")[2].partition(",")[0]


def told(item: Comparison) -> str:
    """The effect with its interval, in bits per byte."""
    if item.effect is None:
        return "–"
    interval = f" ({item.interval[0]:+.3f} to {item.interval[1]:+.3f})" if item.interval else ""
    return f"{item.effect:+.3f}{interval}"


def secondary_table(place: Path, costs: Sequence[str]) -> pd.DataFrame:
    """A row for each change: its effect on each task or size, and on all of them together, by the study's verdicts.

    Behind them the tokens of each active parameter and `costs` over the baseline's, on each task or at each size.
    """
    study = load(place)
    found = study.comparisons
    names = [study.runs["variant"], study.runs["task"]]
    tokens = (study.runs["tokens"] / study.runs["active_parameters"]).groupby(names, sort=False).mean()
    means = study.runs.groupby(names, sort=False)[list(costs)].mean()
    baseline = means.loc[found.items[0].baseline]
    lines: dict[str, dict[str, str]] = {}
    for item in (*found.items, *found.suite):
        size = width(item.task)
        where = "together" if item in found.suite else f"width {size}" if size else item.task
        line = lines.setdefault(item.label, {"change": f"`{item.label}`"})
        line[where] = f"{item.verdict.value} {told(item)}"
    for name, line in lines.items():
        line["tokens of each active parameter"] = ", ".join(map("{:.0f}".format, tokens[name]))
        for cost in costs:
            line[COSTS[cost]] = ", ".join(map("{:.2f}".format, means.loc[name, cost] / baseline[cost]))
    return pd.DataFrame(lines.values())


def costs_table(place: Path) -> pd.DataFrame:
    """What each variant costs over what the first one does, and the tokens that it had: means of runs.

    At the smallest size and at the largest.
    """
    study = load(place)
    means = study.runs.groupby(["task", "variant"], sort=False)[list(COSTS)].mean()
    sizes = list(means.groupby(level="task", sort=False))
    lines = []
    for task, own in (sizes[0], sizes[-1]):
        ratios = own.droplevel("task") / own.iloc[0]
        ratios.insert(0, "width", width(str(task)))
        each = own["tokens"] / own["active_parameters"]
        ratios.insert(1, "tokens of each active parameter", each.droplevel("task").map("{:.0f}".format))
        lines.append(ratios.reset_index())
    found = pd.concat(lines).rename(columns=COSTS)
    found["variant"] = "`" + found["variant"] + "`"
    rounded: pd.DataFrame = found.map(lambda value: f"{value:.2f}" if isinstance(value, float) else value)
    return rounded


def panels(found: Sequence[Row], results: Path) -> dict[str, dict[str, Comparison]]:
    """What each panel of the picture shows of each change: a question that decides, or itself alone, elsewhere."""
    shown: dict[str, dict[str, Comparison]] = {}
    for row in found:
        shown.setdefault(QUESTIONS[row.question], {})[row.change] = row.item
    for study, title in BESIDE.items():
        if place := place_of(results, study):
            shown[title] = {item.label: item for item in together(load(place).comparisons)}
    return shown


def picture(found: Sequence[Row], results: Path) -> Figure:
    """Each comparison with its interval; to the left of 0 the loss is lower with the change.

    So what is taken out is shown with its sign turned, and the colour says what it did where it was.
    """
    shown = panels(found, results)
    changes = list(dict.fromkeys(change for items in shown.values() for change in items))
    figure = Figure(figsize=(1.5 + 3.2 * len(shown), 0.9 + 0.3 * max(1, len(changes))), layout="constrained")
    drawn = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (title, items) in zip(drawn, shown.items(), strict=True):
        out = title == QUESTIONS["left_out"]
        for change, item in items.items():
            if item.effect is None:
                continue
            sign, verdict = -1 if out else 1, str(item.verdict.value)
            colour = COLOURS.get(TURNED.get(verdict, verdict) if out else verdict, "#777777")
            place, ends = changes.index(change), item.interval or (item.effect, item.effect)
            axes.plot([sign * end for end in ends], [place, place], color=colour, linewidth=2.4)
            axes.plot([sign * item.effect], [place], "o", color=colour, markersize=6)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(changes)), changes)
        axes.set_title(title + (", sign turned" if out else ""))
        axes.set_xlabel("bits per byte")
        axes.spines[["top", "right"]].set_visible(False)
    drawn[0].set_ylim(len(changes) - 0.5, -0.5)
    return figure


def short_table(shown: dict[str, dict[str, Comparison]]) -> pd.DataFrame:
    """What the picture shows of the change where it is added: a row for each, bold where something is resolved."""
    lines: dict[str, dict[str, str]] = {}
    for title, items in shown.items():
        if title == QUESTIONS["left_out"]:
            continue
        for change, item in items.items():
            verdict = f"**{item.verdict.value.lower()}** " if item.verdict.value in COLOURS else ""
            lines.setdefault(change, {"change": f"`{change}`"})[title] = verdict + told(item)
    return pd.DataFrame(lines.values()).fillna("–")


def tables(results: Path) -> dict[str, str]:
    """In Markdown: that of the effects, those of the secondary studies, the costs of the others, and the short one."""
    found = rows(results)
    made = {"effects": effects_table(found, results), "in short": short_table(panels(found, results))}
    if place := place_of(results, "alone"):
        made["alone"] = alone_table(found, place)
    made |= {
        study: secondary_table(place, costs)
        for study, costs in SECONDARY.items()
        if (place := place_of(results, study))
    }
    made |= {f"costs of {study}": costs_table(place) for study in QUESTIONS if (place := place_of(results, study))}
    return {name: table.to_markdown(index=False, disable_numparse=True) for name, table in made.items()}


def main(words: Sequence[str]) -> None:
    results = next((Path(word) for word in words if not word.startswith("--")), HERE / "results")
    print("\n\n".join(f"{name}\n\n{table}" for name, table in tables(results).items()))
    if "--picture" in words:
        picture(rows(results), results).savefig(HERE / "changes.png", dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])
