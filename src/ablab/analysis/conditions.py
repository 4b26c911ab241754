"""Were the two trained under equal conditions? What differs besides the component is known beside the verdict.

Does an option cost time? Claimed only where every seed says so, since time is a noisier measure than a count. Does what
is said to follow the input follow it? Decided from the mechanism metrics, not from the option's name.
"""

from __future__ import annotations

from statistics import median

from ablab.analysis import oracle
from ablab.analysis.costs import (
    EQUAL_SPEED,
    Pairs,
    at_equal_time,
    matched_budget,
    unequal_active_parameters,
    unequal_flops,
    unequal_parameters,
    unequal_tokens,
)
from ablab.analysis.estimates import FEWEST_SEEDS
from ablab.analysis.notes import (
    InputIndependent,
    Note,
    OtherMachine,
    OtherSoftware,
    OtherTarget,
    SlowTraining,
    UncountedFlops,
    UnequalEvaluation,
    Unmixed,
)
from ablab.analysis.pairing import Pairing
from ablab.analysis.study_notes import OtherCorpus
from ablab.analysis.tuned_pairs import one_step_away, tuned_settings
from ablab.results.evaluation import AT
from ablab.results.factors import text_of
from ablab.results.record import Record

NEGLIGIBLE = 1e-3  # of weights that add up to 1
VARIATION = "layer_fusion/weight_variation"  # standard deviation of a layer's weight over inputs
STEPS_TO_TARGET = "steps_to_target"
SPREAD, MIXING = "residual/stream_spread", "residual/mix_distance"  # of streams from their mean, mixes from identity
_OF_THE_MACHINE = ("device", "processor", "cores", "threads")


def notes(pairing: Pairing) -> list[Note]:
    """Each unequal condition of the complete pairs, and each thing to know before reading the verdict."""
    found = [
        input_independent(pairing),
        unmixed(pairing),
        oracle.window_ceiling(pairing),
        slow_training(pairing),
        *unequal(pairing.pairs, pairing.metric),
        *one_step_away(pairing),
        other_machine(pairing),
    ]
    return [note for note in found if note]


def unequal(pairs: Pairs, metric: str) -> list[Note]:
    """Those of the notes that are about how the two of each pair were trained, and evaluated for the metric."""
    found = [
        matched_budget(pairs),
        tuned_settings(pairs),
        unequal_flops(pairs),
        unequal_parameters(pairs),
        unequal_active_parameters(pairs),
        unequal_tokens(pairs),
        _evaluation(pairs, metric),
        _target(pairs, metric),
        _uncounted(pairs),
        _software(pairs),
    ]
    return [note for note in found if note]


def other_corpus(pairing: Pairing) -> OtherCorpus | None:
    """Why the two cannot be compared: they learned from different data, or were evaluated on different data.

    None if the data is the same or unknown.
    """
    at = pairing.metric.partition(AT)[2]
    for record, other in pairing.pairs:
        learned = [(record.corpus, other.corpus)]
        seen = [(record.evaluations[at].corpus, other.evaluations[at].corpus)] if at in record.evaluations else []
        for own, base in (*learned, *seen):
            if own and base and own.sha256 != base.sha256:
                evaluated = (own, base) in seen
                return OtherCorpus((own.name, own.sha256), (base.name, base.sha256), record.seed, evaluated=evaluated)
    return None


def input_independent(pairing: Pairing) -> InputIndependent | None:
    """A layer fusion whose weights are said to depend on the input and in no run do."""
    measured = [own.mechanism[VARIATION] for own, _ in pairing.pairs if VARIATION in own.mechanism]
    return InputIndependent(max(measured)) if measured and max(measured) < NEGLIGIBLE else None


def unmixed(pairing: Pairing) -> Unmixed | None:
    """Streams that are one and the same in every run, or that are mixed by the identity."""
    for name in (SPREAD, MIXING):
        measured = [own.mechanism[name] for own, _ in pairing.pairs if name in own.mechanism]
        if measured and max(measured) < NEGLIGIBLE:
            return Unmixed(name == SPREAD, max(measured))
    return None


def slow_training(pairing: Pairing) -> SlowTraining | None:
    """A variant that trains more slowly than its baseline; None where that cannot be claimed.

    Speed is training's alone, in tokens per second, and paired seed by seed. The claim needs `FEWEST_SEEDS` pairs, all
    of them timed on like machines, and each slower by more than `EQUAL_SPEED`. A variant that had a budget of time and
    kept it has paid for its speed already: the verdict is at equal time.
    """
    if at_equal_time(pairing.pairs):
        return None
    speeds = [(own.cost.tokens_per_second, base.cost.tokens_per_second) for own, base in pairing.pairs]
    ratios = [own / base for own, base in speeds if own and base]
    if len(ratios) < FEWEST_SEEDS or max(ratios) >= 1 - EQUAL_SPEED or other_machine(pairing):
        return None
    return SlowTraining(median(ratios), min(ratios), max(ratios), len(ratios), _length(pairing))


def other_machine(pairing: Pairing) -> OtherMachine | None:
    """How the machines of some pair differ; None if they do not, or where they are unknown."""
    differing = {
        (name, str(own.machine[name]), str(base.machine[name]))
        for own, base in pairing.pairs
        for name in _OF_THE_MACHINE
        if name in own.machine and name in base.machine and own.machine[name] != base.machine[name]
    }
    return OtherMachine(tuple(sorted(differing))) if differing else None


def _length(pairing: Pairing) -> int | None:
    lengths = {_seq_len(record) for pair in pairing.pairs for record in pair}
    return lengths.pop() if len(lengths) == 1 else None


def _seq_len(record: Record) -> int | None:
    length = _of_task(record, "seq_len")
    return length if isinstance(length, int) else None


def _evaluation(pairs: Pairs, metric: str) -> UnequalEvaluation | None:
    differing = dict.fromkeys(
        (split, samples, base[split])
        for own, base in ((_evaluated(own, metric), _evaluated(base, metric)) for own, base in pairs)
        for split, samples in own.items()
        if base.get(split, samples) != samples
    )
    return UnequalEvaluation(tuple(differing)) if differing else None


def _target(pairs: Pairs, metric: str) -> OtherTarget | None:
    """Where the steps to it are compared, which a setting of the task asked for."""
    if not pairs or not metric.endswith(STEPS_TO_TARGET):
        return None
    own, base = (
        tuple(sorted({text_of(_of_task(record, "target")) for record in side})) for side in zip(*pairs, strict=True)
    )
    return OtherTarget(own, base) if own != base else None


def _of_task(record: Record, key: str) -> object:
    task = record.config.get("task")
    return task.get(key) if isinstance(task, dict) else None


def _evaluated(record: Record, metric: str) -> dict[str, int]:
    """The samples that a metric is of, by split."""
    at = metric.partition(AT)[2]
    return record.evaluations[at].evaluated if at in record.evaluations else record.evaluated


def _uncounted(pairs: Pairs) -> UncountedFlops | None:
    missing = sorted({name for a, b in pairs for name in {*a.cost.flops_uncounted} ^ {*b.cost.flops_uncounted}})
    return UncountedFlops(tuple(missing)) if missing else None


def _software(pairs: Pairs) -> OtherSoftware | None:
    differing = {
        (name, str(record.versions[name]), str(other.versions[name]))
        for record, other in pairs
        for name in record.versions.keys() & other.versions.keys()
        if record.versions[name] != other.versions[name]
    }
    return OtherSoftware(tuple(sorted(differing))) if differing else None
