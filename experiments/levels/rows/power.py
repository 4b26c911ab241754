"""An effect of the size that is called detectable is resolved, where it is the only one among the comparisons."""

from counted import cell, moved
from simulated import DIFFERENCE_SD, Cell, Row, claims, judged, tables

from ablab.analysis.estimates import Estimate
from ablab.analysis.family import planned_level
from ablab.analysis.power import detectable
from ablab.analysis.verdicts import RESOLVED


def of(studies: int, variants: int, seeds: int) -> Cell:
    """Studies in which the first variant, which has the effect, is resolved."""
    degrees, level = planned_level(seeds, [variants], 0, 0)
    effect = detectable(Estimate(0.0, DIFFERENCE_SD / seeds**0.5, degrees, seeds), level)
    simulated = moved(tables(studies, variants, seeds, key=3), [effect] + [0.0] * (variants - 1))
    seen = (judged(claims(table))[0][1] in RESOLVED for table in simulated)
    return cell(f"{variants} variants, {seeds} seeds", seen)


def row(studies: int) -> Row:
    cells = [of(studies, variants, seeds) for variants in (1, 3, 5, 8) for seeds in (5, 10)]
    return Row("power", "an effect of the detectable size is resolved", 0.80, cells, at_least=True)
