"""Counting over simulated studies: false claims of any comparison, and intervals that hold all effects at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from simulated import Cell, FloatArray, claims, judged

from ablab.analysis.family import Claim
from ablab.analysis.verdicts import RESOLVED, Evidence, Verdict


def cell(where: str, studies: Iterable[bool]) -> Cell:
    """The share of studies in which something happened."""
    found = list(studies)
    return Cell(where, float(np.mean(found)), len(found))


def is_false(evidence: Evidence, verdict: Verdict, effect: float) -> bool:
    """Whether a verdict, or the note that a resolved effect is within the margin, is false of the true effect."""
    assert evidence.estimate is not None
    if evidence.equivalent and abs(effect) >= (evidence.margin or 0.0):
        return True
    return verdict in RESOLVED and (effect == 0 or (effect < 0) != (evidence.estimate.effect < 0))


def any_false(where: str, tables: FloatArray, effects: Sequence[float], margin: float | None = None) -> Cell:
    """Studies of one task in which any verdict is false when the variants have those effects."""
    return cell(where, (false_in(claims(table, margin), effects) for table in moved(tables, effects)))


def false_in(study: list[Claim], effects: Sequence[float]) -> bool:
    """Whether any verdict of a study is false when its comparisons have those effects."""
    return any(is_false(*found, effect) for found, effect in zip(judged(study), effects, strict=True))


def all_hold(where: str, tables: FloatArray, interval: Callable[[Evidence], tuple[float, float] | None]) -> Cell:
    """Studies without effects all of whose intervals hold the truth."""

    def hold(table: FloatArray) -> bool:
        found = [interval(evidence) for evidence, _ in judged(claims(table))]
        return all(each is not None and each[0] <= 0 <= each[1] for each in found)

    return cell(where, map(hold, tables))


def moved(tables: FloatArray, effects: Sequence[float]) -> FloatArray:
    """The same studies when each variant has an effect."""
    return tables + np.array([0.0, *effects])[:, None]
