"""The margin of equivalence: what it must be, and whether it was declared before the runs.

A margin that is chosen when the effects are known can be chosen so that they lie inside. What a record holds of its
study's comparison was written when its run began, and a study's plan by its last command: a margin was declared where
every record has it, and for the same metric. Records of earlier versions hold nothing of it; there the plan speaks.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from ablab.analysis.metrics import on_split
from ablab.config import Node
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.evaluation import metric_name
from ablab.results.record import Record


def check_margin(margin: float | None) -> None:
    """Raises UserError for a margin of equivalence that is not positive."""
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise UserError(f"margin {margin}: give a positive number in the metric's unit, or none")


def was_declared(runs: Runs, margin: float | None, metrics: Collection[str], by_plan: bool) -> bool:
    """Whether the margin was declared before the runs.

    Args:
        metrics: that are compared.
        by_plan: the plan of their study has it.
    """
    held = [(record, record.comparison) for record in runs.records if record.comparison]
    if margin is None or not all(_declares(record, own, margin, metrics) for record, own in held):
        return False
    return by_plan or len(held) == len(runs.records) > 0


def _declares(record: Record, declared: Node, margin: float, metrics: Collection[str]) -> bool:
    own = declared.get("metric") or (on_split(record.primary, declared.get("split")) if record.primary else None)
    return declared.get("margin") == margin and (own is None or metric_name(str(own)) in metrics)
