"""The report's content, section by section, as plain values that the template sets into the page."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from ablab.analysis.comparison import Comparison, Comparisons
from ablab.analysis.pairing import variants
from ablab.report.html.curves import curves_of
from ablab.report.html.figures.canvas import Look
from ablab.report.html.figures.ceilings import ceilings
from ablab.report.html.figures.cost import quality_and_cost
from ablab.report.html.figures.curves import learning_curves
from ablab.report.html.figures.forest import forest
from ablab.report.html.modalities import Matrices, is_share, matrices
from ablab.report.html.oracle import theory, theory_table
from ablab.report.html.parts import Parts, parts_of
from ablab.report.tables import cost_table, mean_sd, quality_table, records_of, variant_rows
from ablab.report.units import figure
from ablab.results.collect import Runs

NOT_RUN = "not run"


@dataclass(frozen=True)
class TaskSection:
    """What the report shows of one task."""

    name: str
    metric: str
    items: list[Comparison]
    effects: Markup | None
    quality: pd.DataFrame
    ceilings: Markup | None
    theory: pd.DataFrame | None
    parts: list[Parts]
    curves: Markup | None
    scatter: Markup | None
    cost: pd.DataFrame
    mechanism: dict[str, pd.DataFrame]  # axis -> table
    matrices: list[Matrices]


@dataclass(frozen=True)
class Health:
    """Which seed of which variant ended how."""

    seeds: list[int]
    rows: list[tuple[str, str, list[str]]]  # (task, variant, status per seed)


def task_section(comparisons: Comparisons, runs: Runs, task: str, looks: dict[str, Look], name: str) -> TaskSection:
    """Everything about `task`; ids in its figures start with `name`."""
    metric = comparisons.metrics[task]
    items = comparisons.of_task(task)
    rows = variant_rows(comparisons, runs)
    known = theory(runs, task)
    curves = {shown: curves_of(runs, task, shown) for shown in dict.fromkeys([metric, "train_loss"]) if shown}
    return TaskSection(
        name=task,
        metric=metric,
        items=items,
        effects=forest(items, looks, f"{name}-effects"),
        quality=quality_table(comparisons, runs, task),
        ceilings=ceilings(known, looks, f"{name}-ceilings") if known and known.windows else None,
        theory=theory_table(known) if known else None,
        parts=parts_of(runs, task),
        curves=learning_curves(curves, looks, f"{name}-curves"),
        scatter=quality_and_cost(
            [dict(row) for _, row in rows[rows["task"] == task].iterrows()], looks, f"{name}-cost"
        ),
        cost=cost_table(comparisons, runs, task),
        mechanism=mechanism_tables(runs, task),
        matrices=matrices(runs, task),
    )


def mechanism_tables(runs: Runs, task: str) -> dict[str, pd.DataFrame]:
    """axis -> the mechanism metrics of that axis, mean and sd over the runs of each variant that ended well.

    Metrics of single layers ("activation/zero_share/layer_0") stay in the records; their means are shown.
    Shares of attention between modalities have matrices instead.
    """
    records = {variant: records_of(runs, task, variant) for variant in variants(runs)}
    ok = {variant: [r for r in found if r.status == "ok"] for variant, found in records.items() if found}
    measured = {name for found in ok.values() for record in found for name in record.mechanism}
    names = sorted(name for name in measured if name.count("/") == 1 and not is_share(name))
    tables = {}
    for axis in dict.fromkeys(name.split("/")[0] for name in names):
        own = [name for name in names if name.split("/")[0] == axis]
        tables[axis] = pd.DataFrame(
            [
                {
                    "variant": variant,
                    **{
                        _short(name): figure(*mean_sd([r.mechanism[name] for r in found if name in r.mechanism]))
                        for name in own
                    },
                }
                for variant, found in ok.items()
            ]
        )
    return tables


def health(runs: Runs) -> Health:
    """The grid of variants and seeds. A seed that was run more than once shows every end, in order."""
    seeds = sorted({record.seed for record in runs.records})
    rows = []
    for (task, variant), group in runs.table.groupby(["task", "variant"], sort=False):
        ends = [", ".join(group.loc[group["seed"] == seed, "status"]) or NOT_RUN for seed in seeds]
        rows.append((str(task), str(variant), ends))
    return Health(seeds, rows)


def _short(name: str) -> str:
    """The metric without its axis, which the heading names."""
    return name.partition("/")[2] or name
