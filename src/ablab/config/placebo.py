"""Placebos: arms of a study that cannot matter, and how a run's config says that it is one.

`ablab.model.placebo` carries them out. The key is in no option's file, so that the identity of every other run is
what it was; a plan adds it to the overrides of the baseline.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

Placebo = Literal["draw", "order", "nudge"]
NUDGE: Placebo = "nudge"  # one number of one weight off by rounding: `design.chaos` asks for it
KINDS: tuple[Placebo, ...] = tuple(kind for kind in get_args(Placebo) if kind != NUDGE)  # of `design.placebo=true`
KEY = "model.placebo"


def placebo_of(config: dict[str, Any]) -> str:
    """The kind of placebo that a run's config, as plain data, says it is; "" for every other run."""
    model = config.get("model")
    kind = model.get("placebo") if isinstance(model, dict) else None
    return kind if isinstance(kind, str) else ""


def override_of(kind: str) -> str:
    """The override that makes a run a placebo, whatever option of `model` it has."""
    return f"++{KEY}={kind}"
