"""The range of seeds that a margin is said to need holds the number that it does need."""

from collections.abc import Iterator

from counted import cell
from simulated import DIFFERENCE_SD, Row, claims, judged, tables

from ablab.analysis.power import seeds_for, seeds_needed
from ablab.analysis.verdicts import Verdict

MARGIN = DIFFERENCE_SD


def held(studies: int, variants: int, seeds: int) -> Iterator[bool]:
    """Whether each range that a report prints, beside UNRESOLVED, holds the right number."""
    for table in tables(studies, variants, seeds, key=4):
        evidence, verdict = judged(claims(table, MARGIN))[0]
        if verdict is Verdict.UNRESOLVED and evidence.estimate:
            right = seeds_for(MARGIN, DIFFERENCE_SD, evidence.share_level)
            _, least, most = seeds_needed(MARGIN, evidence.estimate, evidence.share_level, evidence.own_estimate)
            yield least <= right <= most


def row(studies: int) -> Row:
    cells = [
        cell(f"{variants} variants, {seeds} seeds", held(studies, variants, seeds))
        for variants in (1, 3, 5, 8)
        for seeds in (3, 5, 10)
    ]
    return Row("seeds", "the printed range of seeds holds the right number", 0.93, cells, at_least=True)
