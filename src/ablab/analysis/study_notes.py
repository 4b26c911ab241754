"""Notes on a comparison as a whole, as facts. `ablab.report.study_notes` says each of them in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ablab.analysis.notes import SeedNote
from ablab.results.record import Direction


@dataclass(frozen=True)
class OtherCorpus:
    """Why two variants cannot be compared: they learned from different data, or were evaluated on different data."""

    own: tuple[str, str]  # (name, SHA-256)
    baseline: tuple[str, str]
    seed: int
    task: str = ""  # of a suite
    evaluated: bool = False  # it is the data of the evaluation that differ


@dataclass(frozen=True)
class InterimAnalyses:
    """A study that was or will be analysed more than once."""

    seeds: tuple[int, ...]  # how many each analysis had so far
    level: float  # of the present one
    error: float  # how often a study that is analysed so makes any false claim, at most
    most: int | None = None  # seeds that were planned; None: how often it would be analysed was not said beforehand
    spending: str = ""  # how the level is shared out among the planned analyses


@dataclass(frozen=True)
class IntervalUnit:
    """What the intervals of a comparison are over, and what they hold fixed. None of them, no such fact."""

    split: str | None  # that the metric is of, "validation" or "test"; None: of neither, or of several
    machines: int  # kinds of them; 0 where the records do not say
    level: float | None  # None: each is at that of its own look, which are several
    comparisons: int  # that have an interval
    together: int  # of these, whose intervals hold together whatever is shown: those with few seeds
    simultaneous: bool  # shown are the intervals that hold together


@dataclass(frozen=True)
class BaselineMissing:
    """The study's own baseline was not run; the first variant stands in for it."""

    declared: str
    used: str


@dataclass(frozen=True)
class InSteps:
    """Each variant is compared with the one before it."""

    first: str
    sizes: bool  # there is a ladder, of which nothing is said over scale


@dataclass(frozen=True)
class BaselineNotRun:
    """A task that the baseline was not run on."""

    task: str
    baseline: str


@dataclass(frozen=True)
class OfBaseline:
    """A note on one of the baseline's seeds."""

    task: str  # "" where there is one alone
    note: SeedNote


@dataclass(frozen=True)
class DirectionByName:
    """A metric that no task has declared, judged by its name."""

    metric: str
    direction: Direction


@dataclass(frozen=True)
class KnownValues:
    """Values that a task's oracle gives for a metric: chance, ceiling, windows of variants, then subsets."""

    task: str  # "" where there is one alone
    metric: str
    values: tuple[tuple[str, float], ...]
    subsets: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class LadderRules:
    """By which rules runs of several sizes were made of one; as in `ablab.config.ladder`."""

    tokens_per_parameter: float | None
    depth: str
    heads: str
    batch: str
    rate: str  # "constant", or a power, as "compute^-0.125"


@dataclass(frozen=True)
class PlaceboFloor:
    """Up to which placebos differ from what they are placebos of."""

    task: str  # or the suite; "" where there is one alone
    metric: str
    floor: float


@dataclass(frozen=True)
class PlaceboShare:
    """How many comparisons with placebos came out resolved, each judged by itself."""

    resolved: int
    of: int
    equal: int  # to the last bit on every seed
    interval: tuple[float, float]  # of the share
    level: float  # of each


@dataclass(frozen=True)
class OneVariant:
    """Nothing to compare."""


@dataclass(frozen=True)
class SharedMargin:
    """One margin that is held against several metrics, each in its own unit."""

    margin: float
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class AveragedEvaluations:
    """Values that are means of several last evaluations."""

    metrics: tuple[str, ...]
    last_k: int


@dataclass(frozen=True)
class NoSuite:
    """Why the tasks make no suite."""

    why: Literal["one task", "no metric", "different metrics", "mixed directions", "no baseline", "filtered"]
    tasks: tuple[str, ...] = ()  # that lack a metric, or the baseline; or all, with `metrics`
    metrics: tuple[str, ...] = ()  # of each of `tasks`
    filters: str = ""
    left: tuple[int, int] = (0, 0)  # tasks that the filters leave, of how many


@dataclass(frozen=True)
class NoSuiteVerdict:
    """Several tasks without a verdict on all of them."""

    suite: str
    reason: NoSuite


@dataclass(frozen=True)
class RestrictedRuns:
    """Filters that left some runs out before anything was compared."""

    filters: str
    left: int
    runs: int


@dataclass(frozen=True)
class ShownComparisons:
    """Filters that hide some comparisons, for all of which p is adjusted all the same."""

    filters: str
    shown: int
    comparisons: int
    family: int  # comparisons that share one level, on the suite and on tasks
    suite: str = ""  # its name, where they are those on the suite


@dataclass(frozen=True)
class DivergenceFamily:
    """Rates of divergence that are compared by Fisher's exact test."""

    comparisons: int  # that p is adjusted for
    level: float


StudyNote = (
    DivergenceFamily
    | InterimAnalyses
    | BaselineMissing
    | BaselineNotRun
    | InSteps
    | OfBaseline
    | DirectionByName
    | KnownValues
    | LadderRules
    | PlaceboFloor
    | PlaceboShare
    | OneVariant
    | SharedMargin
    | AveragedEvaluations
    | NoSuiteVerdict
    | RestrictedRuns
    | ShownComparisons
)
