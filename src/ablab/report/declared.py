"""What a study has declared of its comparison, as the settings that a comparison of its runs takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Unpack, cast

from ablab.analysis.comparison import ComparisonSettings
from ablab.config import ComparisonConfig
from ablab.study.plan_reader import find_plan

_RECORDED = ("baseline", "within")  # what every record declares of its study's comparison


def declared_settings(comparison: ComparisonConfig) -> ComparisonSettings:
    """Return what a study declares, as `ablab.analysis.comparison.compare` takes it.

    Without the conditions, which every record declares, and the baseline, which it does, too: where a command has left
    it out of the sweep, another one serves.
    """
    declared = {
        name: value for name, value in asdict(comparison).items() if value is not None and name not in _RECORDED
    }
    return cast(ComparisonSettings, declared | ({} if comparison.margin is None else {"margin_declared": True}))


def declared_comparison(folders: Sequence[Path], **asked: Unpack[ComparisonSettings]) -> ComparisonSettings:
    """The settings of a comparison of the runs below `folders`: those asked for, else those their study declares.

    A study that declares a margin before it is run is held to it whenever it is compared. Several folders have declared
    nothing together; and a margin is of one metric, so that it goes where another one, or another split, is asked for.
    Any other margin than the declared one is not a declared one.

    Args:
        asked: None for what is not asked for.

    Raises:
        UserError: the plan of the study cannot be read.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    plan = find_plan(folders[0]) if len(folders) == 1 else None
    if plan is None:
        return cast(ComparisonSettings, given)
    declared = declared_settings(plan.comparison)
    of_metric = ("metric", "split")
    if any(given.get(name, declared.get(name)) != declared.get(name) for name in of_metric):
        declared = cast(ComparisonSettings, {k: v for k, v in declared.items() if k not in ("margin", *of_metric)})
    if "margin" not in declared or given.get("margin", declared["margin"]) != declared["margin"]:
        declared.pop("margin_declared", None)
    return cast(ComparisonSettings, {**declared, **given})
