"""Notes beside a verdict that tuning gives reason for, as facts. `ablab.report.tuning` says each in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Chosen = tuple[tuple[str, Any], ...]  # settings by dotted key
Step = Literal[-1, 1]


@dataclass(frozen=True)
class TunedSettings:
    """What was tuned for the two, each choice once; none where one was not tuned."""

    own: tuple[Chosen, ...]
    baseline: tuple[Chosen, ...]
    same_grid: bool = True  # in the keys that both have
    edges: tuple[
        tuple[str, Any, str], ...
    ] = ()  # chosen values that are the "largest" or the "smallest" that was tried
    extended: tuple[tuple[str, int, int], ...] = ()  # keys whose grid was extended by so many steps, below and above
    points: tuple[int, int] = (0, 0)  # that each was tried at
    lacking: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # keys that each of them has not
    max_steps: int | None = None  # of the tuning runs, where they were others than those that are compared
    known: bool = True  # whether the tuning runs are, seed by seed


@dataclass(frozen=True)
class Away:
    """The effect with one key of the tuned sides a step away, on the tuning seeds."""

    step: Step
    own: Any  # the variant's value there; None where it is not tuned
    baseline: Any
    effect: float | None  # the mean over tuning seeds; None where that is not known
    why: Literal["not tried", "did not end well", ""] = ""


@dataclass(frozen=True)
class OneStepAway:
    """The effect by the tuning runs, at what was chosen and a step of the grid to either side of it."""

    key: str
    seeds: int
    here: float  # at what was chosen
    away: tuple[Away, ...]

    def reversed_by(self, effect: float) -> tuple[Away, ...]:
        """Those of another sign than the effect that was found."""
        return tuple(each for each in self.away if each.effect is not None and each.effect * effect < 0)


def plain(note: OneStepAway) -> Mapping[str, Any]:
    """The note as plain data."""
    return {**vars(note), "away": [vars(each) for each in note.away]}
