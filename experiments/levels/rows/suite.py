"""Any false verdict on a suite of three tasks or on one of the tasks, where no variant does anything."""

from collections.abc import Iterator

from counted import cell, false_in
from simulated import FloatArray, Row, claims, kinds, named, tables

from ablab.analysis.family import Claim

TASKS = ("a", "b", "c")


def of_suite(parts: tuple[FloatArray, ...]) -> list[Claim]:
    """All claims of a study from the table of each task: on the average over the tasks, and on each."""
    average = sum(parts[1:], parts[0]) / len(parts)
    found = claims(average, task="suite", on_suite=True)
    for task, table in zip(TASKS, parts, strict=True):
        found += claims(table, task=task)
    return found


def studies_of(studies: int, kind: tuple[int, int, str]) -> Iterator[bool]:
    """Whether each study has a false claim."""
    of_tasks = [tables(studies, *kind, key=10 + place) for place in range(len(TASKS))]
    for parts in zip(*of_tasks, strict=True):
        yield false_in(of_suite(parts), [0.0] * (kind[0] * (1 + len(TASKS))))


def row(studies: int) -> Row:
    cells = [cell(named(*kind), studies_of(studies // 2, kind)) for kind in kinds()]
    return Row("suite", "any BETTER or WORSE, on the suite of 3 tasks or on a task", 0.05, cells)
