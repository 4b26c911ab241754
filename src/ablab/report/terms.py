"""On which terms runs are compared: those that are asked for, else those that their study has declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablab.config import ComparisonConfig
from ablab.study.plan_file import PLAN_FILE, read_plan


def declared_terms(comparison: ComparisonConfig) -> dict[str, Any]:
    """What a study declares, as `ablab.analysis.comparison.compare` takes it.

    Without the baseline, which every record declares: where a command has left it out of the sweep, another one serves.
    """
    declared = {name: value for name, value in asdict(comparison).items() if value is not None}
    declared.pop("baseline", None)
    return declared


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
    if len(folders) != 1 or not (folders[0] / PLAN_FILE).is_file():
        return given
    declared = declared_terms(read_plan(folders[0]).comparison)
    if given.get("metric", declared.get("metric")) != declared.get("metric"):
        declared.pop("margin", None)
    return {**declared, **given}
