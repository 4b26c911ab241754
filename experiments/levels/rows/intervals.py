"""All simultaneous intervals of a study hold the truth at once."""

from counted import all_hold
from simulated import Row, kinds, named, tables


def row(studies: int) -> Row:
    cells = [all_hold(named(*kind), tables(studies, *kind, key=2), lambda e: e.simultaneous) for kind in kinds()]
    return Row("intervals", "all simultaneous 95% intervals hold at once", 0.95, cells, at_least=True)
