"""Does an option cost time? Said only where every seed says so, since time is a noisier measure than a count."""

from __future__ import annotations

from statistics import median

from ablab.analysis.estimates import FEWEST_SEEDS
from ablab.analysis.pairing import Pairing
from ablab.analysis.wording import decimals_for, number, plural
from ablab.results.record import Record

EQUAL_SPEED = 0.05  # a relative difference up to this counts as the noise of timing
_OF_THE_MACHINE = ("device", "processor", "cores", "threads")


def does_not_pay(pairing: Pairing, label: str, gain: str) -> str | None:
    """The line on a variant that trains more slowly than its baseline; None where that cannot be claimed.

    Speed is training's alone, in tokens per second, and paired seed by seed. The claim needs `FEWEST_SEEDS` pairs, all
    of them timed on like machines, and each slower by more than `EQUAL_SPEED`.

    Args:
        label: the variant by what sets it apart.
        gain: what the verdict found: "gain", "loss" or "difference". A gain was bought with the time, and that is said.
    """
    ratios = _ratios(pairing)
    if len(ratios) < FEWEST_SEEDS or max(ratios) >= 1 - EQUAL_SPEED or machines(pairing):
        return None
    digits = decimals_for(min(ratios))
    middle, low, high = (number(ratio, digits) for ratio in (median(ratios), min(ratios), max(ratios)))
    bought = "; the gain is not at equal time" if gain == "gain" else ""
    return (
        f"DOES NOT PAY IN TIME  {label} trains at {middle} times the speed of the baseline{_length(pairing)} "
        f"({low} to {high} over {plural(len(ratios), 'seed')}){bought}."
    )


def machines(pairing: Pairing) -> str | None:
    """How the machines of some pair differ; None if they do not, or where they are unknown."""
    differing = sorted(
        {
            f"{name} {own.machine[name]} against {base.machine[name]}"
            for own, base in pairing.pairs
            for name in _OF_THE_MACHINE
            if name in own.machine and name in base.machine and own.machine[name] != base.machine[name]
        }
    )
    return f"Not the same machine, so speeds are not compared: {', '.join(differing)}." if differing else None


def _ratios(pairing: Pairing) -> list[float]:
    """The variant's speed over the baseline's, for each pair that was timed."""
    speeds = [(own.cost.tokens_per_second, base.cost.tokens_per_second) for own, base in pairing.pairs]
    return [own / base for own, base in speeds if own and base]


def _length(pairing: Pairing) -> str:
    """The length of the sequences, on which it depends whether an attention pays; "" where it is unknown or mixed."""
    lengths = {_seq_len(record) for pair in pairing.pairs for record in pair}
    length = lengths.pop()
    return "" if lengths or length is None else f" at seq_len={length}"


def _seq_len(record: Record) -> int | None:
    task = record.config.get("task")
    length = task.get("seq_len") if isinstance(task, dict) else None
    return length if isinstance(length, int) else None
