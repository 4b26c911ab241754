"""Notes beside a verdict, in sentences: a function per kind of note.

To say a new one: a dataclass in `ablab.analysis.notes`, and a function here that is registered for it.
"""

from __future__ import annotations

from functools import singledispatch

from ablab.analysis import notes as known
from ablab.analysis.comparison import Comparison
from ablab.analysis.conditions import NEGLIGIBLE
from ablab.analysis.costs import EQUAL_BUDGET
from ablab.analysis.tuning_notes import OneStepAway, TunedSettings
from ablab.analysis.verdicts import Verdict
from ablab.report import tuning
from ablab.report.formatting import decimals_for, number, p_value, percent, plural
from ablab.results.evaluation import AT


def notes_of(item: Comparison) -> list[str]:
    """The notes beside one verdict, a line each; what runs of several seeds say alike is one."""
    seeds: dict[str, list[int]] = {}
    for note in item.notes:
        if isinstance(note, known.RunNote):
            seeds.setdefault(note.text, []).append(note.seed)
    lines = []
    for note in item.notes:
        if not isinstance(note, known.RunNote) or len(seeds[note.text]) == 1:
            lines.append(note_text(note, item))
        elif note.seed == seeds[note.text][0]:
            lines.append(f"seeds {', '.join(map(str, seeds[note.text]))}: {note.text}.")
    return lines


@singledispatch
def note_text(note: known.Note, item: Comparison) -> str:
    """Say a note on a verdict."""
    raise TypeError(f"no sentence for {note}")


@note_text.register
def _(note: known.WithinMargin, item: Comparison) -> str:
    if item.margin_declared:
        return f"Resolved, but within the declared margin of {note.margin:g}."
    return f"Resolved, but within the margin of {note.margin:g}, which was given after the runs."


@note_text.register
def _(note: known.DecidedBefore, item: Comparison) -> str:
    return "Decided at an earlier planned look, which stands; by itself this one does not resolve it."


@note_text.register
def _(note: known.UnlikeNormal, item: Comparison) -> str:
    what = "the differences are skewed" if note.seed is None else f"seed {note.seed} lies apart from the others"
    digits = decimals_for(item.estimate.standard_error if item.estimate else note.mean)
    middle, mean = (number(value, digits, signed=True) for value in (note.median, note.mean))
    return f"ODD SEEDS  {item.label}: {what} (p {p_value(note.p)}); the median is {middle} beside the mean {mean}."


@note_text.register
def _(note: known.InputIndependent, item: Comparison) -> str:
    return (
        f"INPUT-INDEPENDENT  {item.label}: the weights of the layers vary by {note.variation:.1g} between inputs, less "
        f"than {NEGLIGIBLE:g}; as trained, this is a static fusion."
    )


@note_text.register
def _(note: known.Unmixed, item: Comparison) -> str:
    what = "streams differ from their mean" if note.alike else "mix of the streams differs from the identity"
    end = "they are one stream" if note.alike else "each is led past the layers by itself"
    return (
        f"UNMIXED  {item.label}: the {what} by {note.measure:.1g}, less than {NEGLIGIBLE:g}, in every run; "
        f"as trained, {end}."
    )


@note_text.register
def _(note: known.WindowCeiling, item: Comparison) -> str:
    return (
        f"By theory a window of {note.window} tokens reaches {item.metric} {note.ceiling:.4g} at most in one layer; "
        f"{item.label} measured {note.measured:.4g}."
    )


@note_text.register
def _(note: known.SlowTraining, item: Comparison) -> str:
    digits = decimals_for(note.least)
    middle, low, high = (number(ratio, digits) for ratio in (note.median, note.least, note.most))
    length = "" if note.seq_len is None else f" at seq_len={note.seq_len}"
    bought = "; the gain is not at equal time" if item.verdict is Verdict.BETTER else ""
    return (
        f"DOES NOT PAY IN TIME  {item.label} trains at {middle} times the speed of the baseline{length} "
        f"({low} to {high} over {plural(note.seeds, 'seed')}){bought}."
    )


@note_text.register
def _(note: known.MatchedBudget, item: Comparison) -> str:
    if note.kept:
        return f"EQUAL BUDGET  {note.quantity} within {EQUAL_BUDGET:.0%} of the baseline's."
    return f"NOT AT EQUAL BUDGET  {percent(note.difference)} {note.quantity} against the baseline."


note_text.register(TunedSettings, tuning.settings_text)
note_text.register(OneStepAway, tuning.away_text)


@note_text.register
def _(note: known.UnequalCost, item: Comparison) -> str:
    said = f"{percent(note.difference)} {note.quantity} against the baseline"
    if note.quantity == "tokens":
        return f"{said}; the {_found(item)} is not at equal data."
    if note.comparable:
        return f"{said}."
    equal = "compute" if note.quantity == "FLOPs" else "size"
    active = "" if note.active is None else f", but at equal active parameters ({_exactly(note.active)})"
    return f"NOT COMPARABLE  {said}; the {_found(item)} is not at equal {equal}{active}."


@note_text.register
def _(note: known.UnequalEvaluation, item: Comparison) -> str:
    differing = ", ".join(f"{split} {own:,} against {base:,}" for split, own, base in note.samples)
    return f"Not evaluated on equally many samples: {differing}."


@note_text.register
def _(note: known.OtherTarget, item: Comparison) -> str:
    return f"Not given the same target: {' and '.join(note.own)} against {' and '.join(note.baseline)}."


@note_text.register
def _(note: known.UncountedFlops, item: Comparison) -> str:
    return f"FLOPs that only one of the two spends on {', '.join(note.operators)} are not counted."


@note_text.register
def _(note: known.OtherSoftware, item: Comparison) -> str:
    return f"Not the same software: {_differing(note.versions)}."


@note_text.register
def _(note: known.OtherMachine, item: Comparison) -> str:
    return f"Not the same machine, so speeds are not compared: {_differing(note.properties)}."


@note_text.register
def _(note: known.ConstantDifference, item: Comparison) -> str:
    if note.seeds_differ:
        return (
            "The difference is the same on every seed, to rounding, though the seeds differ: is it in how the metric "
            "is computed, and not in what was learned?"
        )
    return "The difference is the same on every seed, to rounding: does the seed reach the run?"


@note_text.register(known.NoValue)
@note_text.register(known.RepeatedSeed)
@note_text.register(known.RunNote)
def _(note: known.SeedNote, item: Comparison) -> str:
    return seed_text(note)


@note_text.register
def _(note: known.BaselineSeed, item: Comparison) -> str:
    return f"baseline {seed_text(note.note)}"


@note_text.register
def _(note: known.SeedNotRun, item: Comparison) -> str:
    return f"{'baseline ' if note.by_baseline else ''}seed {note.seed} was not run."


@note_text.register
def _(note: known.EndedAtLook, item: Comparison) -> str:
    whose, other = ("the baseline's", "this variant") if note.of_baseline else ("its", "the baseline")
    return f"{whose} seeds ended with the look at {note.seeds}, where this is said; {other} has {note.others}."


@note_text.register
def _(note: known.TaskNotRun, item: Comparison) -> str:
    return f"{note.task} was not run with this variant."


@note_text.register
def _(note: known.IncompleteSeed, item: Comparison) -> str:
    return f"seed {note.seed} has no complete pair on {', '.join(note.tasks)}."


def seed_text(note: known.SeedNote) -> str:
    """Say what became of a seed."""
    if isinstance(note, known.RepeatedSeed):
        return f"seed {note.seed} was finished {note.times} times: the first one counts."
    return f"seed {note.seed}: {note.text if isinstance(note, known.RunNote) else no_value_text(note)}."


def no_value_text(note: known.NoValue) -> str:
    """Say why there is no value: "failed (out of memory)"."""
    if note.status != "ok":
        return f"{note.status} ({note.reason})" if note.reason else note.status
    if note.evaluations < note.last_k != 1:
        counted = plural(note.evaluations, "evaluation")
        return f"ok, but with {counted} of {note.metric}, and the last {note.last_k} are averaged"
    metric, _, at = note.metric.partition(AT)
    if not note.evaluated:
        return f"ok, but not evaluated at {at}"
    return f"ok, but without a finite {metric or 'metric'}{f' at {at}' if at else ''}"


def _found(item: Comparison) -> str:
    """Name what the verdict found, which a note says more of."""
    return {Verdict.BETTER: "gain", Verdict.WORSE: "loss"}.get(item.verdict, "difference")


def _exactly(difference: float) -> str:
    return percent(difference) if difference else "exactly"


def where(task: str) -> str:
    """Name a task at the beginning of a sentence."""
    return f"{task}, " if task else ""


def _differing(found: known.Differing) -> str:
    return ", ".join(f"{name} {own} against {base}" for name, own, base in found)
