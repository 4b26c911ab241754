"""Were the two trained under equal conditions? What differs besides the component is said beside the verdict."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from ablab.analysis import adaptivity, oracle, speed
from ablab.analysis.pairing import Pairing
from ablab.analysis.wording import percent
from ablab.results.record import Record

EQUAL_BUDGET = 0.02  # as declared by budget.match
EQUAL_FLOPS = 0.02  # a relative difference up to this counts as equal compute
EQUAL_SIZE = 0.05  # of the parameters; up to this the difference is said, and the two stay comparable

Pairs = list[tuple[Record, Record]]


def notes(pairing: Pairing, label: str, gain: str) -> list[str]:
    """One line per unequal condition of the complete pairs, and per thing to know before reading the verdict.

    Args:
        label: the variant by what sets it apart.
        gain: what the verdict found: "gain", "loss" or "difference".
    """
    found = [
        adaptivity.input_independent(pairing, label),
        oracle.ceiling_note(pairing, label),
        speed.does_not_pay(pairing, label, gain),
        *unequal(pairing.pairs, gain),
        speed.machines(pairing),
    ]
    return [line for line in found if line]


def unequal(pairs: Pairs, gain: str) -> list[str]:
    """Those of the notes that are about how the two of each pair were trained and evaluated."""
    found = [
        _budget(pairs),
        _tuning(pairs),
        _flops(pairs, gain),
        _parameters(pairs, gain),
        _tokens(pairs, gain),
        _evaluated(pairs),
        _uncounted(pairs),
        _software(pairs),
    ]
    return [line for line in found if line]


def other_corpus(pairing: Pairing) -> str | None:
    """Why the two cannot be compared: they learned from different data. None if the data is the same or unknown."""
    for record, other in pairing.pairs:
        own, base = record.corpus, other.corpus
        if own and base and own.sha256 != base.sha256:
            return (
                f"trained on another corpus than the baseline: {own.name} {own.sha256[:8]} against "
                f"{base.name} {base.sha256[:8]} (seed {record.seed})"
            )
    return None


def relative_difference(pairs: Pairs, measure: Callable[[Record], float | None]) -> float | None:
    """(variant - baseline) / baseline of the means over the pairs that have both; None if there are none."""
    both = [(own, base) for own, base in ((measure(a), measure(b)) for a, b in pairs) if own is not None and base]
    if not both:
        return None
    own, base = (fmean(column) for column in zip(*both, strict=True))
    return (own - base) / base


def _tuning(pairs: Pairs) -> str | None:
    """Each at its own best learning rate, or only one of the two."""
    own = {a.tuning.get("chosen") if a.tuning else None for a, _ in pairs}
    base = {b.tuning.get("chosen") if b.tuning else None for _, b in pairs}
    if len(own) != 1 or len(base) != 1 or own == base == {None}:
        return None
    rate, other = own.pop(), base.pop()
    if rate is None or other is None:
        return f"Only {'the baseline' if rate is None else 'this variant'} had its learning rate tuned."
    return f"Each at its own learning rate, tuned on the same grid: {rate:g} against {other:g}."


_MATCHED: dict[str, tuple[str, Callable[[Record], float | None]]] = {
    "params": ("parameters", lambda record: record.cost.parameters),
    "flops": ("FLOPs", lambda record: record.cost.flops_total),
    "tokens": ("tokens", lambda record: record.cost.tokens),
    "time": ("training time", lambda record: record.cost.train_time_s),
}


def _budget(pairs: Pairs) -> str | None:
    """Whether a declared budget was kept, from what the runs came to."""
    matches = {own.budget.get("match") for own, _ in pairs if own.budget}
    if len(matches) != 1 or (match := matches.pop()) not in _MATCHED:
        return None
    name, measure = _MATCHED[match]
    difference = relative_difference(pairs, measure)
    if difference is None:
        return None
    if abs(difference) <= EQUAL_BUDGET:
        return f"EQUAL BUDGET  {name} within {EQUAL_BUDGET:.0%} of the baseline's."
    return f"NOT AT EQUAL BUDGET  {percent(difference)} {name} against the baseline."


def _flops(pairs: Pairs, gain: str) -> str | None:
    difference = relative_difference(pairs, lambda record: record.cost.flops_total)
    if difference is None:
        difference = relative_difference(pairs, lambda record: record.cost.flops_per_step)
    if difference is None or abs(difference) <= EQUAL_FLOPS:
        return None
    return f"NOT COMPARABLE  {percent(difference)} FLOPs against the baseline; the {gain} is not at equal compute."


def _parameters(pairs: Pairs, gain: str) -> str | None:
    difference = relative_difference(pairs, lambda record: record.cost.parameters)
    if not difference:
        return None
    said = f"{percent(difference)} parameters against the baseline"
    return f"{said}." if abs(difference) <= EQUAL_SIZE else f"NOT COMPARABLE  {said}; the {gain} is not at equal size."


def _tokens(pairs: Pairs, gain: str) -> str | None:
    difference = relative_difference(pairs, lambda record: record.cost.tokens)
    return (
        f"{percent(difference)} tokens against the baseline; the {gain} is not at equal data." if difference else None
    )


def _evaluated(pairs: Pairs) -> str | None:
    """Two accuracies of different samples differ by the samples too."""
    differing = dict.fromkeys(
        f"{split} {samples:,} against {base.evaluated[split]:,}"
        for own, base in pairs
        for split, samples in own.evaluated.items()
        if base.evaluated.get(split, samples) != samples
    )
    return f"Not evaluated on equally many samples: {', '.join(differing)}." if differing else None


def _uncounted(pairs: Pairs) -> str | None:
    """What both leave out of the count cancels in the comparison; what one of them leaves out does not."""
    missing = sorted({name for a, b in pairs for name in {*a.cost.flops_uncounted} ^ {*b.cost.flops_uncounted}})
    return f"FLOPs that only one of the two spends on {', '.join(missing)} are not counted." if missing else None


def _software(pairs: Pairs) -> str | None:
    differing = sorted(
        {
            f"{name} {record.versions[name]} against {other.versions[name]}"
            for record, other in pairs
            for name in record.versions.keys() & other.versions.keys()
            if record.versions[name] != other.versions[name]
        }
    )
    return f"Not the same software: {', '.join(differing)}." if differing else None
