"""What the kept results say of each claim: a table and a picture, from the files in `results`.

    python experiments/five_claims/summary.py  # prints the table, and writes it and claims.png

A row is one comparison of a claim on one task: the verdict of `ablab compare`, corrected within its own study. Beside
it stand two that nobody declared: the same corrected over all rows, and what the test split says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ablab import load
from ablab.analysis.comparison import Comparison
from ablab.analysis.conclusions import as_one_family
from ablab.report.formatting import confidence

HERE = Path(__file__).parent
COLOURS = {"BETTER": "#1a7f37", "WORSE": "#b42318", "EQUIVALENT": "#1f5fbf"}
PANELS = {"val_loss": "nats of val_loss saved", "val_accuracy": "val_accuracy gained"}


@dataclass(frozen=True)
class Headline:
    """One variant of a study, by which a claim is decided."""

    claim: str
    study: str
    variant: str  # its label
    baseline: str | None = None  # None: the study's


@dataclass(frozen=True)
class Row:
    """A headline on one task."""

    label: str
    item: Comparison
    test: Comparison  # on the test split
    level: float  # of its interval: stricter, the more often its study was looked at
    speed: float  # over the baseline's


THREE = "activation=dynamic_sparse,attention=dynamic,layer_fusion=adaptive"
HEADLINES = [
    Headline("1 dynamic attention, equal tokens", "attention_text", "dynamic"),
    Headline("1 dynamic attention, equal time", "attention_time", "dynamic"),
    Headline("1 dynamic attention", "attention_recall", "dynamic"),
    *(Headline(f"2 sparse activation, {n} layers", f"activation_depth_{n}", "dynamic_sparse") for n in (2, 6, 12)),
    Headline("3 rate by gradient variance", "schedule", "gradient_variance"),
    *(
        Headline(f"4 cross-modal fusion against {other}", "fusion", "cross", f"modal_fusion={other}")
        for other in ("early", "late", "hybrid")
    ),
    *(
        Headline(f"5 {name}", "parallel", name)
        for name in ("hybrid", "ddp_bf16", "ddp_powersgd", "ddp_topk", "local_sgd", "diloco", "async_ddp")
    ),
    Headline("6 adaptive layer fusion", "layers", "adaptive"),
    Headline("all together", "together", f"{THREE},schedule=gradient_variance"),
    Headline("all together but for the rate", "together", THREE),
    Headline("all together", "together_spoken", "all"),
    Headline("all together but for the rate", "together_spoken", "all_but_gradient_variance"),
]
TASKS = {
    "code": "source code",
    "digits": "images of digits",
    "spoken": "three modalities",
    "far_recall": "recall over 256 tokens",
    "task.batch_size": "",
    "task.seq_len": "{} tokens",
    "task.modality_dropout": "{} left out",
}


def task_name(task: str) -> str:
    """ "code,task.batch_size=4,task.seq_len=1024" -> "source code, 1024 tokens"."""
    parts = [part.partition("=") for part in task.split(",")]
    named = [TASKS[key].format(value) if value else TASKS[key] for key, _, value in parts]
    return ", ".join(filter(None, named))


@lru_cache
def both_splits(kept: Path, baseline: str | None) -> tuple[Any, Any]:
    """The study as it was declared, and as it would be if it had been declared on the test split."""
    study = load(kept, baseline=baseline)
    margin = study.comparisons.items[0].margin  # in nats or of accuracy, as the test split's metric is
    return study, load(kept, baseline=baseline, split="test", margin=margin)


def rows(results: Path) -> Iterator[Row]:
    """A row for every headline whose study has been run, and each of its tasks."""
    for headline in HEADLINES:
        kept = results / f"{headline.study}.jsonl.xz"
        if not kept.is_file():
            continue
        study, on_test = both_splits(kept, headline.baseline)
        speeds = study.effects().set_index(["task", "variant"])["tokens_per_second"]
        for item, test in zip(study.comparisons.items, on_test.comparisons.items, strict=True):
            if item.label == headline.variant:
                ratio = speeds[item.task, item.variant] / speeds[item.task, item.baseline]
                yield Row(f"{headline.claim}; {task_name(item.task)}", item, test, study.comparisons.level, ratio)


def table(found: list[Row]) -> str:
    """As Markdown."""
    lines = []
    for row, over_all in zip(found, as_one_family([row.item for row in found]), strict=True):
        lines.append(
            {
                "claim and task": row.label,
                "metric": row.item.metric,
                "effect": f"{row.item.effect:+.3f}",
                "interval": interval(row.item),
                "confidence": confidence(row.level),
                "seeds": len(row.item.seeds),
                "verdict": row.item.verdict.value,
                f"over all {len(found)} rows": over_all.verdict.value,
                "on the test split": f"{row.test.verdict.value} {row.test.effect:+.3f} ({interval(row.test)})",
                "speed over the baseline's": f"{row.speed:.2f}",
            }
        )
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def interval(item: Comparison) -> str:
    low, high = item.interval or (float("nan"), float("nan"))
    return f"{low:+.3f} to {high:+.3f}"


def picture(found: list[Row]) -> Figure:
    """Every effect with its interval, one panel per metric, so that to the right is better."""
    panels = {metric: [row for row in found if row.item.metric == metric] for metric in PANELS}
    panels = {metric: shown for metric, shown in panels.items() if shown}
    levels = " or ".join(sorted({confidence(row.level) for row in found}))
    figure = Figure(figsize=(14, 0.8 + 0.3 * max(map(len, panels.values()))), layout="constrained")
    for axes, (metric, shown) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for place, item in enumerate(row.item for row in shown):
            sign = -1 if item.direction == "min" else 1
            colour = COLOURS.get(item.verdict.value, "#777777")
            low, high = item.interval or (item.effect, item.effect)
            axes.plot([sign * low, sign * high], [place, place], color=colour, linewidth=2.4)
            axes.plot([sign * item.effect], [place], "o", color=colour, markersize=6)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(shown)), [row.label for row in shown])
        axes.invert_yaxis()
        axes.set_xlabel(PANELS[metric])
        axes.spines[["top", "right"]].set_visible(False)
    handles = [figure.axes[0].plot([], [], "o-", color=colour, label=verdict)[0] for verdict, colour in COLOURS.items()]
    handles += figure.axes[0].plot([], [], "o-", color="#777777", label="UNRESOLVED")
    title = f"intervals at {levels}; right of 0 is better"
    figure.legend(handles=handles, title=title, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def main() -> None:
    found = list(rows(HERE / "results"))
    text = table(found)
    print(text)
    (HERE / "results" / "summary.md").write_text(f"{text}\n", encoding="utf-8")
    picture(found).savefig(HERE / "claims.png", dpi=110)


if __name__ == "__main__":
    main()
