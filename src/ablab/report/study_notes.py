"""Notes on a comparison as a whole, in sentences: a function per kind of note of `ablab.analysis.study_notes`."""

from __future__ import annotations

from functools import singledispatch

from ablab.analysis import study_notes as known
from ablab.analysis.comparison import Comparisons
from ablab.analysis.earned import PairingEarned
from ablab.analysis.estimates import FULL_SEEDS, LEVEL
from ablab.report.formatting import confidence, decimals_for, number, plural, share, without_zero
from ablab.report.notes import seed_text, where

MOST_SAVED = 1000  # times as many seeds: beyond, pairs are equal to rounding
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
    ci, count = "CI" if unit.level is None else f"{confidence(unit.level)} CI", f"{unit.comparisons:,}"
    own = ", at the level of its look," if unit.level is None else ""
    if unit.simultaneous or unit.together == unit.comparisons:
        return f"; the {ci}s of all {count} comparisons hold together"
    few = f" but those of {FULL_SEEDS - 1} seeds" if unit.together else ""
    return f"; each {ci}{own} is of one comparison alone{few}, while p is adjusted for all {count}"


@singledispatch
def study_note_text(note: known.StudyNote) -> str:
    """Say a note on the comparison as a whole."""
    raise TypeError(f"no sentence for {note}")


@study_note_text.register
def _(note: known.InterimAnalyses) -> str:
    *before, last = map(str, note.seeds)
    seeds = f"{', '.join(before)}, then {last} seeds" if before else f"{last} seeds"
    now = f"this time each comparison alone is held against {without_zero(note.level)}, its interval at"
    now = f"{now} {confidence(note.level)}"
    if note.error <= LEVEL:
        plan = f"of at most {note.most}, as planned " if note.most else ""
        return f"INTERIM ANALYSES  {seeds} {plan}({note.spending}): {now}, and all looks together keep {LEVEL:.0%}."
    planned = f"beyond the {note.most} that were planned" if note.most else "which was not planned"
    return (
        f"INTERIM ANALYSES  analysed at {seeds}, {planned}: {now}, and a study analysed so makes a false claim in up "
        f"to {note.error:.1%}; seed=auto plans its looks for {LEVEL:.0%}."
    )


@study_note_text.register
def _(note: known.LadderRules) -> str:
    tokens = "as many steps at every size"
    if note.tokens_per_parameter is not None:
        tokens = f"{note.tokens_per_parameter:g} tokens for each parameter of the baseline outside of embeddings"
    scaled = [name for name, rule in (("layers", note.depth), ("heads", note.heads)) if rule == "scaled"]
    shape = f"; {' and '.join(scaled)} in proportion to the width" if scaled else ""
    rate = "one learning rate" if note.rate == "constant" else f"a learning rate that goes as {note.rate}"
    batch = "one batch size" if note.batch == "fixed" else "batches that grow with the compute"
    return f"LADDER  by rules: {tokens}{shape}; {rate}, {batch}."


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
def _(note: known.InSteps) -> str:
    return (
        "STEPS  each variant is compared with the one before it, which is what notes on it call the baseline; "
        f"--baseline '{note.first}' compares all of them with the first{', over scale, too' if note.sizes else ''}."
    )


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
def _(note: known.PlaceboFloor) -> str:
    by = number(note.floor, decimals_for(note.floor)) if note.floor else "nothing"
    up_to = f"up to {by}" if note.floor else by
    return (
        f"PLACEBOS  {where(note.task)}{note.metric}: placebos differ from the baseline by {up_to}; no effect below "
        "that is claimed."
    )


@study_note_text.register
def _(note: known.PlaceboShare) -> str:
    low, high = (f"{bound:.0%}" for bound in note.interval)
    equal = f"; {note.equal} {'was' if note.equal == 1 else 'were'} equal to the last bit on every seed" * bool(
        note.equal
    )
    return (
        f"PLACEBOS  {note.resolved} of {plural(note.of, 'comparison')} with placebos came out resolved, each by itself "
        f"({note.resolved / note.of:.0%}, 95% CI {low} to {high}; {note.level:.0%} are expected){equal}."
    )


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


def pairing_text(earned: PairingEarned) -> str:
    """Say what pairing by seed has earned: "PAIRING  r = .87 (...); unpaired runs would need 7.7 times ..."."""
    spread = f", {share(earned.lowest)} to {share(earned.highest)}"
    over = f" (median of {earned.comparisons:,} comparisons{spread})" if earned.comparisons > 1 else ""
    depths = ", ".join(f"{share(each.correlation)} with {each.layers} layers" for each in earned.depths)
    chaos = "" if earned.chaos is None else f" Rounding that grew explains {min(earned.chaos, 1):.0%} of what is left."
    return (
        f"PAIRING  r = {share(earned.correlation)}{over}{f': {depths}' if depths else ''}; "
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
