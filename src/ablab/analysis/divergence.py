"""Rates of divergence: Fisher's exact test of each variant's beside the baseline's, a family of its own.

All comparisons of the family count, also those in which nothing diverged, whose p is 1: which ones those are is known
from the same runs. Exact tests on few runs seldom reach their level, so that any claim on rates is false in less than
`LEVEL` of studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ablab.analysis.estimates import fisher, holm
from ablab.analysis.study_notes import DivergenceFamily, StudyNote
from ablab.analysis.verdicts import Evidence


def with_divergence(found: Sequence[Evidence]) -> list[Evidence]:
    """The evidence on all comparisons, with the adjusted p of equal rates where either side diverged."""
    adjusted = holm([_p(each) for each in found])
    return [
        replace(each, p_divergence=p) if each.diverged or each.baseline_diverged else each
        for each, p in zip(found, adjusted, strict=True)
    ]


def _p(evidence: Evidence) -> float:
    return fisher(evidence.diverged, evidence.ended, evidence.baseline_diverged, evidence.baseline_ended)


def divergence_notes(found: Sequence[Evidence]) -> list[StudyNote]:
    """What the p values on rates of divergence are adjusted for, where there are any."""
    if not any(each.p_divergence is not None for each in found):
        return []
    return [DivergenceFamily(len(found), max(each.level for each in found))]
