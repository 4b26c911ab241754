"""The verdicts, and how many of each kind there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ablab.analysis.comparison import Comparison
from ablab.analysis.wording import plural
from ablab.report.material import Material


@dataclass(frozen=True)
class Verdicts:
    """The first screen of the report."""

    glance: str  # all of them in a sentence
    groups: list[tuple[str, list[Comparison]]]  # (task, its verdicts)
    notes: tuple[str, ...]  # about the comparison as a whole


def verdicts(material: Material) -> Verdicts:
    names = [material.suite, *material.tasks] if material.suite else material.tasks
    groups = [(name, material.compared(name)) for name in names]
    return Verdicts(_glance(material, groups), groups, material.comparisons.notes)


def _glance(material: Material, groups: list[tuple[str, list[Comparison]]]) -> str:
    """Of the suite, where there is one: its verdicts are the primary ones."""
    groups = groups[:1] if material.suite else groups
    counts = Counter(item.verdict.value for _, items in groups for item in items)
    if not counts:
        return ""
    kinds = ", ".join(f"{count} {kind.lower()}" for kind, count in counts.items())
    seeds = plural(len({record.seed for record in material.runs.records}), "seed")
    where = f" on the {material.suite}" if material.suite else ""
    where = f" on {plural(len(groups), 'task')}" if len(groups) > 1 else where
    return f"{plural(counts.total(), 'comparison')}{where} over {seeds}: {kinds}."
