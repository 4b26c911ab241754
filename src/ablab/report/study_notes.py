"""Notes on a comparison as a whole, in sentences: a function per kind of note of `ablab.analysis.study_notes`."""

from __future__ import annotations

from functools import singledispatch

from ablab.analysis import study_notes as known
from ablab.analysis.comparison import Comparisons
from ablab.analysis.earned import PairingEarned
from ablab.analysis.estimates import LEVEL
from ablab.report.formatting import confidence, decimals_for, number, plural, share, without_zero
from ablab.report.notes import seed_text, where

MOST_SAVED = 1000  # times as many seeds: beyond, pairs are equal to rounding
_MOST_SUBSETS = 8  # that a line names one by one


def study_notes(comparisons: Comparisons) -> list[str]:
    """The notes about the comparison as a whole, a line each."""
    return [study_note_text(note) for note in comparisons.notes]


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
        f"p is adjusted for {'all ' if note.comparisons > 1 else ''}{note.comparisons:,}."
    )


def pairing_text(earned: PairingEarned) -> str:
    """Say what pairing by seed has earned: "pairing by seed: r = .87 (...); unpaired runs would need 7.7 times ..."."""
    spread = f", {share(earned.lowest)} to {share(earned.highest)}"
    over = f" (median of {earned.comparisons:,} comparisons{spread})" if earned.comparisons > 1 else ""
    depths = ", ".join(f"{share(each.correlation)} with {each.layers} layers" for each in earned.depths)
    chaos = "" if earned.chaos is None else f" Rounding that grew explains {min(earned.chaos, 1):.0%} of what is left."
    return (
        f"pairing by seed: r = {share(earned.correlation)}{over}{f': {depths}' if depths else ''}; "
        f"{saving_text(earned.saving)}.{chaos}"
    )


def saving_text(saving: float) -> str:
    """What pairing saves in words: "unpaired runs would need 9.5 times as many seeds"."""
    if saving < 1:
        return f"unpaired runs would need no more seeds, {number(saving, 2)} times as many"
    shown = number(saving, decimals_for(saving)) if saving < MOST_SAVED else f"over {MOST_SAVED:,}"
    return f"unpaired runs would need {shown} times as many seeds"


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
