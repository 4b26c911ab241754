"""On which terms runs are compared: those that are asked for, else those that their study has declared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablab.study.plan_file import find_plan


def terms_of(folders: Sequence[Path], **asked: Any) -> dict[str, Any]:
    """The terms of a comparison of the runs below `folders`, as `ablab.analysis.comparison.compare` takes them.

    A study that declares a margin before it is run is held to it whenever it is compared. Several folders have declared
    nothing together; and a margin is of one metric, so that it goes where another one is asked for.

    Args:
        asked: `baseline`, `metric`, `margin`, `last_k`; None for what is not asked for.

    Raises:
        UserError: the plan of the study cannot be read.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    plan = find_plan(folders[0]) if len(folders) == 1 else None
    if plan is None:
        return given
    declared = {name: value for name, value in plan.terms.items() if value is not None}
    if given.get("metric", declared.get("metric")) != declared.get("metric"):
        declared.pop("margin", None)
    return {**declared, **given}
