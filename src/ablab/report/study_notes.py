"""Notes on a comparison as a whole, in sentences: a function per kind of note of `ablab.analysis.study_notes`."""

from __future__ import annotations

from functools import singledispatch

from ablab.analysis import study_notes as known
from ablab.analysis.comparison import Comparisons
from ablab.analysis.estimates import FULL_SEEDS, LEVEL
from ablab.report.formatting import confidence, plural, without_zero
from ablab.report.notes import seed_text, where

_MOST_SUBSETS = 8  # that a line names one by one


def study_notes(comparisons: Comparisons) -> list[str]:
    """The notes about the comparison as a whole, a line each."""
    return [study_note_text(note) for note in comparisons.notes]


def interval_lines(comparisons: Comparisons) -> list[str]:
    """A line that says what all intervals are over, and whether they hold one by one or together; none without any."""
    unit = comparisons.unit
    if unit is None:
        return []
    split = f", with one {unit.split} split" if unit.split else ""
    machines = f", on {'one kind' if unit.machines == 1 else f'{unit.machines} kinds'} of machine"
    over = f"over seeds (initial values, order of the data, random draws){split}{machines if unit.machines else ''}"
    return [f"INTERVALS  {over}{_held(unit)}."]


def _held(unit: known.IntervalUnit) -> str:
    """Which of them hold together, where there are several."""
    if unit.comparisons < 2:
        return ""
    ci, count = f"{confidence(unit.level)} CI", f"{unit.comparisons:,}"
    if unit.simultaneous or unit.together == unit.comparisons:
        return f"; the {ci}s of all {count} comparisons hold together"
    few = f" but those of {FULL_SEEDS - 1} seeds" if unit.together else ""
    return f"; each {ci} is of one comparison alone{few}, while p is adjusted for all {count}"


@singledispatch
def study_note_text(note: known.StudyNote) -> str:
    """Say a note on the comparison as a whole."""
    raise TypeError(f"no sentence for {note}")


@study_note_text.register
def _(note: known.InterimAnalyses) -> str:
    *before, last = note.seeds
    return (
        f"INTERIM ANALYSES  the study was analysed {len(note.seeds)} times "
        f"({', '.join(map(str, before))}, then {last} seeds); each interval is at {confidence(note.level)}, and p is "
        f"held against {without_zero(note.level)}, so that {len(note.seeds)} analyses at this level keep {LEVEL:.0%} "
        "together."
    )


@study_note_text.register
def _(note: known.DivergenceFamily) -> str:
    over = f"adjusted by Holm over all {note.comparisons} comparisons" if note.comparisons > 1 else "of one comparison"
    return (
        f"DIVERGENCE  Fisher's p of equal rates is {over}, a family of its own, in which any false claim has at most "
        f"the probability {without_zero(note.level)}."
    )


@study_note_text.register
def _(note: known.BaselineMissing) -> str:
    return f"no run has the study's baseline {note.declared}: compared with {note.used}, the first variant."


@study_note_text.register
def _(note: known.BaselineNotRun) -> str:
    return f"{note.task}: the baseline {note.baseline} was not run on this task."


@study_note_text.register
def _(note: known.OfBaseline) -> str:
    return f"{where(note.task)}baseline {seed_text(note.note)}"


@study_note_text.register
def _(note: known.DirectionByName) -> str:
    better = "higher" if note.direction == "max" else "lower"
    return f"{note.metric}: {better} is taken as better, by its name."


@study_note_text.register
def _(note: known.KnownValues) -> str:
    values = [f"{name} {value:.4g}" for name, value in (*note.values, *note.subsets)]
    if len(note.subsets) > _MOST_SUBSETS:
        every = [value for _, value in note.subsets]
        values = [*values[: len(note.values)], f"{len(every)} subsets from {min(every):.4g} to {max(every):.4g}"]
    return f"{where(note.task)}{note.metric} by theory: {', '.join(values)}."


@study_note_text.register
def _(note: known.OneVariant) -> str:
    return "one variant: nothing to compare."


@study_note_text.register
def _(note: known.SharedMargin) -> str:
    return f"one margin, {note.margin:g}, is held against {' and '.join(note.metrics)}, each in its own unit."


@study_note_text.register
def _(note: known.AveragedEvaluations) -> str:
    return f"{', '.join(note.metrics) or 'metric'}: the mean of the last {note.last_k} evaluations of each run."


@study_note_text.register
def _(note: known.NoSuiteVerdict) -> str:
    return f"no verdict on the {note.suite}: {no_suite_text(note.reason)}."


@study_note_text.register
def _(note: known.RestrictedRuns) -> str:
    return (
        f"{note.left:,} of {plural(note.runs, 'run')} are compared ({note.filters}); "
        "what is said holds only if they were chosen before looking."
    )


@study_note_text.register
def _(note: known.ShownComparisons) -> str:
    return (
        f"{f'on the {note.suite}: ' if note.suite else ''}{note.shown:,} of {plural(note.comparisons, 'comparison')} "
        f"{'is' if note.shown == 1 else 'are'} shown ({note.filters}); "
        f"p is adjusted for {'all ' if note.family > 1 else ''}{note.family:,}"
        f"{', on the suite and on tasks' if note.family > note.comparisons else ''}."
    )


def no_suite_text(reason: known.NoSuite) -> str:
    """Say why the tasks make no suite."""
    tasks = ", ".join(reason.tasks)
    judged = ", ".join(f"{task} by {metric}" for task, metric in zip(reason.tasks, reason.metrics, strict=False))
    return {
        "one task": "one task is no suite",
        "no metric": f"{tasks} has no metric yet",
        "different metrics": f"they are judged by different metrics ({judged}); --metric compares all of them by one",
        "mixed directions": "their metric is better high on some and low on others",
        "no baseline": f"the baseline was not run on {tasks}",
        "filtered": f"{reason.filters} leaves {reason.left[0]} of {reason.left[1]} tasks",
    }[reason.why]
