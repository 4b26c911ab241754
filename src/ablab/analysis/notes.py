"""Notes beside a verdict, as facts. `ablab.report.notes` says each of them in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ablab.analysis.tuning_notes import OneStepAway, TunedSettings
from ablab.results.record import Status

# (name, the variant's, the baseline's)
Differing = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class WithinMargin:
    """A resolved effect that lies inside the declared margin."""

    margin: float


@dataclass(frozen=True)
class DecidedBefore:
    """An effect that an earlier look resolved, as was planned, and that this one alone would not."""


@dataclass(frozen=True)
class UnlikeNormal:
    """Differences of which one lies apart from the others, or that lean to one side, more than normal ones do."""

    seed: int | None  # that lies apart; None: they are skewed
    p: float
    median: float
    mean: float


@dataclass(frozen=True)
class InputIndependent:
    """Weights that are said to follow the input and in no run do."""

    variation: float  # the largest of all runs, in weights that add up to 1


@dataclass(frozen=True)
class Unmixed:
    """Residual streams that could mix and in no run do.

    Attributes:
        alike: they are all the same; else each is led past the layers by itself.
        measure: the largest of all runs, relative to the streams or to the identity.
    """

    alike: bool
    measure: float


@dataclass(frozen=True)
class WindowCeiling:
    """The ceiling of the variant's window, by theory, beside the mean that was measured."""

    window: int  # tokens
    ceiling: float
    measured: float


@dataclass(frozen=True)
class SlowTraining:
    """A variant that trains more slowly than the baseline on every seed, as multiples of the baseline's speed."""

    median: float
    least: float
    most: float
    seeds: int
    seq_len: int | None  # on which it depends whether an attention pays; None where unknown or mixed


@dataclass(frozen=True)
class MatchedBudget:
    """Whether a declared budget was kept, from what the runs came to."""

    quantity: str  # "FLOPs"
    difference: float  # relative
    kept: bool


@dataclass(frozen=True)
class UnequalCost:
    """A cost that differs by more than counts as equal."""

    quantity: Literal["FLOPs", "parameters", "active parameters", "tokens"]
    difference: float  # relative
    comparable: bool
    active: float | None = None  # of unequal parameters, the difference of the active ones, where these are equal


@dataclass(frozen=True)
class UnequalEvaluation:
    """Metrics of different samples, which differ by the samples, too."""

    samples: tuple[tuple[str, int, int], ...]  # (split, the variant's, the baseline's)


@dataclass(frozen=True)
class OtherTarget:
    """Steps to a target, of runs that were not given the same one."""

    own: tuple[str, ...]
    baseline: tuple[str, ...]


@dataclass(frozen=True)
class UncountedFlops:
    """Operators without a formula that only one of the two has: what both leave out cancels in the comparison."""

    operators: tuple[str, ...]


@dataclass(frozen=True)
class OtherSoftware:
    versions: Differing


@dataclass(frozen=True)
class OtherMachine:
    """Machines whose speeds are not compared."""

    properties: Differing


@dataclass(frozen=True)
class ConstantDifference:
    """A difference that is equal on every seed, to rounding."""

    seeds_differ: bool  # the values that it is taken of do


@dataclass(frozen=True)
class NoValue:
    """A seed of one side without a value of the metric."""

    seed: int
    status: Status
    reason: str | None  # that the record gives
    metric: str
    evaluations: int  # of the metric that the record has kept
    last_k: int  # that were to be averaged
    evaluated: bool = True  # where the metric is one of an evaluation elsewhere, whether that was made


@dataclass(frozen=True)
class RepeatedSeed:
    """A seed that was finished several times, of which the first counts."""

    seed: int
    times: int


@dataclass(frozen=True)
class RunNote:
    """A note that a run has left in its record."""

    seed: int
    text: str


@dataclass(frozen=True)
class SeedNotRun:
    """A seed that only one of the two was given."""

    seed: int
    by_baseline: bool  # it is the baseline that was not given it


@dataclass(frozen=True)
class EndedAtLook:
    """A variant that was given no seeds after an interim analysis, where its baseline was; or the other way round."""

    seeds: int  # at that look
    others: int  # that the other of the two has
    of_baseline: bool = False  # it is the baseline's that ended


@dataclass(frozen=True)
class TaskNotRun:
    """A task of the suite that the variant was not run on."""

    task: str


@dataclass(frozen=True)
class IncompleteSeed:
    """A seed that does not count on the suite, since some tasks have no complete pair."""

    seed: int
    tasks: tuple[str, ...]


SeedNote = NoValue | RepeatedSeed | RunNote  # about one side


@dataclass(frozen=True)
class BaselineSeed:
    """A note on a seed of the one before it, where that is its baseline."""

    note: SeedNote


Note = (
    WithinMargin
    | DecidedBefore
    | UnlikeNormal
    | InputIndependent
    | Unmixed
    | WindowCeiling
    | SlowTraining
    | MatchedBudget
    | TunedSettings
    | OneStepAway
    | UnequalCost
    | UnequalEvaluation
    | OtherTarget
    | UncountedFlops
    | OtherSoftware
    | OtherMachine
    | ConstantDifference
    | SeedNote
    | BaselineSeed
    | SeedNotRun
    | EndedAtLook
    | TaskNotRun
    | IncompleteSeed
)
