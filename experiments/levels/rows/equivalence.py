"""Any false EQUIVALENT, or any other false verdict, where variants have an effect of just the margin.

Half of them at least; the others do nothing, so that each of the two kinds of claim can be a false one.
"""

from counted import any_false
from simulated import DIFFERENCE_SD, Row, kinds, named, tables

MARGIN = 5 * DIFFERENCE_SD  # wide, so that a false claim is as likely as it may be


def row(studies: int) -> Row:
    cells = []
    for variants, seeds, noise in kinds():
        effects = [0.0 if place % 3 == 2 else MARGIN for place in range(variants)]
        simulated = tables(studies, variants, seeds, noise, key=1)
        cells.append(any_false(named(variants, seeds, noise), simulated, effects, MARGIN))
    return Row("equivalence", "any false verdict, two of three effects are the margin", 0.05, cells)
