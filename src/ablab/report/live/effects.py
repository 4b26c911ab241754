"""The effects of the runs that have ended so far. Figures only: who concludes from them peeks, so nothing is judged."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablab.analysis.baseline import Baselines, choose_baselines, declared_baseline
from ablab.analysis.conditions import other_corpus
from ablab.analysis.metrics import choose_metric, pending
from ablab.analysis.pairing import Pairing, label, outcomes, tasks, variants
from ablab.config import Node
from ablab.errors import UserError
from ablab.report.formatting import decimals_for, number
from ablab.report.sentences import against, measured
from ablab.results.collect import Runs, tabulate
from ablab.results.record import Record


def effects_so_far(records: list[Record]) -> RenderableType | None:
    """Per task a table of mean differences to the baseline, over the seeds that both have; None while there are none.

    They are of the metric that the verdicts will be of: the one that the study declares, else each task's primary one.
    No intervals, p values or verdicts: they hold for the seeds that were planned, not for those that came first.
    """
    planned = sorted(records, key=lambda record: -1 if record.index is None else record.index)
    if not planned or (planned[0].index or 0) > 0:
        return None  # the first of the plan is missing, which tells the baseline
    runs = tabulate([(Path(str(place)), record) for place, record in enumerate(planned)])
    declared = records[-1].comparison  # kept runs, which may have been begun under another one, come first
    try:
        baselines = choose_baselines(runs, declared_baseline(runs))
        tables = [table for task in tasks(runs) if (table := _table(runs, task, baselines, declared))]
    except UserError:  # no run of the baseline has ended, or none that has the metric
        return None
    return Group(*tables) if tables else None


def _table(runs: Runs, task: str, baselines: Baselines, declared: Node) -> RenderableType | None:
    wanted: Any = declared.get("metric")
    wanted = None if pending(runs, wanted) else wanted  # evaluations elsewhere come after the study
    metric, direction, _ = choose_metric(runs, task, wanted, declared.get("split"))
    last_k: int = declared.get("last_k") or 1
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("variant")
    table.add_column("mean difference", justify="right", no_wrap=True)
    table.add_column("pairs", justify="right", no_wrap=True)
    found = {variant: outcomes(runs, task, variant, metric, last_k) for variant in variants(runs)}
    for variant, own in found.items():
        baseline = baselines.of(variant)
        pairing = Pairing(variant, baseline, task, metric, own, found.get(baseline, {}))
        if baselines.steps and not _neighbours(pairing):
            continue
        if variant != baselines.first and pairing.seeds and not other_corpus(pairing):
            effect = fmean(pairing.differences)
            name = Text(label(runs, variant, baseline), no_wrap=True, overflow="ellipsis")
            table.add_row(name, Text(number(effect, decimals_for(effect), signed=True)), Text(str(len(pairing.seeds))))
    where = f"{task}, " if len(tasks(runs)) > 1 else ""
    better = "higher" if direction == "max" else "lower"
    averaged = f", {measured(last_k)}" if last_k > 1 else ""
    title = f"so far, no verdict: {where}{metric}{averaged} ({better} is better), variant minus {against(baselines)}"
    return Group(Text(title, style="bold", no_wrap=True, overflow="ellipsis"), table) if table.row_count else None


def _neighbours(pairing: Pairing) -> bool:
    """Whether nothing lies between the two in the plan: what does may not have ended yet."""
    return all((own.index or 0) - (base.index or 0) == 1 for own, base in pairing.pairs)
