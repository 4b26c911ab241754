"""Any false place on a Pareto front, where variants cost more than the baseline and are its equals."""

from counted import cell
from simulated import FloatArray, Row, kinds, named, tables

from ablab.analysis.estimates import LEVEL
from ablab.analysis.pareto import Membership, front
from ablab.analysis.ranking import pairs_of, resolved_pairs


def row(studies: int) -> Row:
    cells = [cell(named(*kind), map(any_false, tables(studies // 4, *kind))) for kind in kinds()]
    return Row("front", "any equal that costs more on a Pareto front, or any variant off it", 0.05, cells)


def any_false(table: FloatArray) -> bool:
    values = {f"v{place}": dict(enumerate(row.tolist())) for place, row in enumerate(table)}
    better = [pair.names for pair in resolved_pairs(pairs_of("task", values, "min"), LEVEL)]
    cheapest, *dearer = front({name: float(place) for place, name in enumerate(values)}, better).values()
    return cheapest is Membership.OFF or any(each is not Membership.PERHAPS for each in dearer)
