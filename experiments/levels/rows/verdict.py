"""Any false BETTER or WORSE where no variant does anything."""

from counted import any_false
from simulated import Row, kinds, named, tables


def row(studies: int) -> Row:
    cells = [any_false(named(*kind), tables(studies, *kind), [0.0] * kind[0]) for kind in kinds()]
    return Row("verdict", "any BETTER or WORSE, no variant does anything", 0.05, cells)
