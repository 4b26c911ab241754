"""What the further studies of the claims say, those whose results are kept: a table.

    python experiments/five_claims/further.py               # of the files in `results`
    python experiments/five_claims/further.py outputs/mine  # of the studies' folders, or files, in another place

A row is one comparison on the test split: the verdict within its study, and the one over all rows of the table, which
is stricter the more studies there are. Two tables are of what is asked beside a metric: units that are dead in
`activation_tuned`, and how far the loss of the test split is above that of training in `layers_overfit`.
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
from ablab.analysis.estimates import paired
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


DEAD = "activation/dead_share"
LOGGED = 5  # training losses at the end of a run that are averaged, since each is of one batch


@dataclass(frozen=True)
class Row:
    study: str
    item: Comparison
    level: float


def place_of(study: str, results: Path) -> Path | None:
    """The kept file of a study, or its folder."""
    return next((path for path in (results / f"{study}.jsonl.xz", results / study) if path.exists()), None)


def rows(results: Path) -> list[Row]:
    """Each comparison of the studies that there are: on a task, and on all of a study's tasks together."""
    found = []
    for name in FURTHER:
        if place := place_of(name, results):
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


def gaps(place: Path) -> str:
    """What the loss of the test split is above that of training, by variant and beside the first, as Markdown.

    Intervals are 95% by t over the seeds, without what choosing a rate adds.
    """
    study = load(place)
    losses, rates = {}, {}
    for variant, seed, test_loss in study.runs[["layer_fusion", "seed", "test_loss"]].itertuples(index=False):
        run = study.run(layer_fusion=variant, seed=seed)
        losses[variant, seed] = (run.curves["train_loss"].dropna().tail(LOGGED).mean(), test_loss)
        rates[variant] = run.config["optimizer"]["lr"]
    frame = pd.DataFrame.from_dict(losses, orient="index", columns=["training", "test"])
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["layer_fusion", "seed"])
    gap = (frame["test"] - frame["training"]).unstack("layer_fusion")
    first, *others = study.runs["layer_fusion"].unique()
    lines = [
        {
            "layer fusion": f"`{variant}`",
            "rate": f"{rates[variant]:g}",
            "loss of training": f"{frame.loc[variant, 'training'].mean():.3f}",
            "of the test split": f"{frame.loc[variant, 'test'].mean():.3f}",
            "gap": f"{gap[variant].mean():.3f}",
            "beside the first": "" if variant == first else told(gap[variant] - gap[first]),
        }
        for variant in (first, *others)
    ]
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def dead_units(place: Path) -> str:
    """Shares of hidden units that are zero for every token of the validation, by task and variant, as Markdown.

    Intervals are 95% by t over the seeds, without what choosing a scale adds.
    """
    lines = []
    for task, runs in load(place).runs.groupby("task", sort=False):
        names = runs["variant"].str.rpartition(",")[2]
        dead, zero = (runs.pivot_table(column, "seed", names) for column in (DEAD, "activation/zero_share"))
        lines += [
            {
                "task": task,
                "variant": f"`{name}`",
                "dead": f"{dead[name].mean():.3f}",
                "beside ReLU": "" if name == "relu" else told(dead[name] - dead["relu"]),
                "zeros": f"{zero[name].mean():.2f}",
            }
            for name in names.unique()
        ]
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def told(differences: pd.Series[float]) -> str:
    """Their mean, with its 95% interval by t."""
    estimate = paired(differences.tolist())
    low, high = estimate.interval()
    return f"{estimate.effect:+.3f} ({low:+.3f} to {high:+.3f})"


BESIDE = {"activation_tuned": dead_units, "layers_overfit": gaps}

if __name__ == "__main__":
    results = next(map(Path, sys.argv[1:]), HERE / "results")
    print(table(rows(results)))
    for name, made in BESIDE.items():
        if place := place_of(name, results):
            print("", made(place), sep="\n")
