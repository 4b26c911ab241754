"""Runs that a sweep makes for itself before it compares: to choose a learning rate, or to measure a speed.

They lie in folders of their own in that of the sweep, are kept and used again like all others, and enter no comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.planning.expand import folder_name

Config = dict[str, Any]
_LABELS = ("variant=", "index=", "hydra.sweep.subdir=", "seed=")


def first_of_each(plan: Sequence[list[str]], configs: Sequence[Config]) -> dict[str, list[str]]:
    """The variants of the plan, each with the overrides of its first run; "" is the only one of a sweep over seeds."""
    variants: dict[str, list[str]] = {}
    for overrides, config in zip(plan, configs, strict=True):
        variants.setdefault(config.get("variant") or "", overrides)
    return variants


def trial(
    overrides: Sequence[str],
    *,
    label: str,
    seed: int,
    index: int,
    folder: Sequence[str],
    without: tuple[str, ...],
    settings: Sequence[str],
) -> list[str]:
    """The overrides of such a run.

    Args:
        overrides: of the run that it is made for.
        label: what stands in place of a variant in the progress.
        folder: the names of the folders, from that of the sweep down.
        without: beginnings of overrides that it does not take over.
        settings: overrides of its own.
    """
    kept = [override for override in overrides if not override.startswith((*_LABELS, *without))]
    where = "/".join(folder_name(name) for name in folder if name)
    labels = [f"seed={seed}", f"index={index}", f"variant='{label}'", f"hydra.sweep.subdir='{where}'"]
    return [*kept, *settings, *labels]


def record_in(folder: Path) -> Record | None:
    """What a trial left, if it left anything."""
    path = folder / RECORD_FILE
    return read_record(path) if path.is_file() else None
