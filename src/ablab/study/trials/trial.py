"""Runs that a sweep makes for itself before it compares: to choose a learning rate, or to measure a speed.

They lie in folders of their own in that of the sweep, are kept and used again like all others, and enter no comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.planning.expand import Run, folder_name


def first_of_each(plan: Sequence[Run]) -> dict[str, Run]:
    """The variants of the plan, each with its first run; "" is the only one of a sweep over seeds."""
    variants: dict[str, Run] = {}
    for run in plan:
        variants.setdefault(run.variant, run)
    return variants


def trial(
    run: Run,
    *,
    label: str,
    seed: int,
    index: int,
    folder: Sequence[str],
    without: tuple[str, ...],
    settings: Sequence[str],
) -> Run:
    """Such a run.

    Args:
        run: that it is made for.
        label: what stands in place of a variant in the progress.
        folder: the names of the folders, from that of the sweep down.
        without: beginnings of overrides that it does not take over.
        settings: overrides of its own.
    """
    unasked = ("seed=", "schedule.anneal_at=", *without)  # nobody looks at shorter runs of a trial
    kept = [override for override in run.overrides if not override.startswith(unasked)]
    return Run(
        overrides=[*kept, *settings, f"seed={seed}"],
        context=replace(run.context, variant=label, index=index),
        folder="/".join(folder_name(name) for name in folder if name),
    )


def record_in(folder: Path) -> Record | None:
    """What a trial left, if it left anything."""
    path = folder / RECORD_FILE
    return read_record(path) if path.is_file() else None
