"""Records of tuned studies: a baseline and a variant, each with its tuning runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synthetic import study

from ablab.results.record import Record

LOSSES = [1.00, 1.02, 0.97, 1.05, 0.99]
Points = Mapping[Any, Sequence[float | None]]  # a rate, or settings as a tuple of pairs, with its value on each seed


def told(points: Points, chosen: Any, **others: Any) -> dict[str, Any]:
    """What a record has of its tuning."""
    named = [(dict(key) if isinstance(key, tuple) else {"optimizer.lr": key}, values) for key, values in points.items()]
    settings = dict(chosen) if isinstance(chosen, tuple) else {"optimizer.lr": chosen}
    points_ = [{"settings": point, "values": {"val_loss": list(values)}} for point, values in named]
    found = {"seeds": [1000, 1001], "max_steps": None, "settings": settings, "points": points_, "metric": "val_loss"}
    return {**found, "direction": "min", "extended": {}, "lacking": [], **others}


def tuned_study(
    differences: Sequence[float], of_baseline: dict[str, Any] | None, of_variant: dict[str, Any] | None
) -> list[Record]:
    """The baseline `full` and the variant `windowed` on five seeds."""
    losses = LOSSES[: len(differences)]
    own = [loss + each for loss, each in zip(losses, differences, strict=True)]
    records = study({"full": losses, "windowed": own}, axis="attention")
    for place, record in enumerate(records):
        record.tuning = of_baseline if place < len(losses) else of_variant
    return records
