"""What `ablab plan` knows of a study. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ablab.config.seeds import SeedsConfig
from ablab.results.collect import Runs
from ablab.results.run_context import LadderReport
from ablab.study.events import RunOutline


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a short run of a variant says of a whole one. None where it did not end well."""

    seconds: float | None = None  # of the whole run
    step_seconds: float | None = None
    start_seconds: float = 0.0  # before its first step, and behind its last evaluation
    evaluation_seconds: float = 0.0
    tested: bool = False  # whether a run ends with an evaluation of the test split
    memory_bytes: int | None = None  # at most, of the first process
    error: str | None = None  # why it did not end well

    def lasting(self, steps: float, evaluations: int) -> float:
        """The seconds of a run of so many steps and evaluations. The probe must have ended well."""
        assert self.step_seconds is not None
        return self.start_seconds + steps * self.step_seconds + evaluations * self.evaluation_seconds


@dataclass(frozen=True, kw_only=True)
class Size:
    """The runs at a size of a ladder on a task, as the baseline has it."""

    report: LadderReport
    task: str
    steps: int
    runs: int
    seconds: float | None  # of all of them


@dataclass(kw_only=True)
class Row:
    """The runs of a variant on a task."""

    first: RunOutline
    seeds: list[int] = field(default_factory=list)
    done: int = 0  # of them, finished before
    probe: Probe | None = None


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The runs for tuning and for measuring speeds, before the others."""

    count: int = 0
    done: int = 0  # of them, finished before
    more: int = 0  # at most, where grids of tuning are extended
    seconds: float | None = None  # of those that are left; None where that is not known


@dataclass(kw_only=True)
class Preview:
    """The plan of a study, and what it will cost."""

    folder: Path
    runs: int
    notes: list[str]  # what was left out, what was adjusted
    errors: list[tuple[str, str]] = field(default_factory=list)  # overrides of each run that cannot work, and why
    rows: list[Row] = field(default_factory=list)
    jobs: int = 1  # runs side by side
    trials: Trials = field(default_factory=Trials)
    question: str = ""
    planned: Runs | None = None  # a run of each variant on each task as it will have been
    seeds: SeedsConfig | None = None  # of a study that makes its seeds in blocks
    ladder: list[Size] = field(default_factory=list)  # from the smallest size on

    @property
    def done(self) -> int:
        return sum(row.done for row in self.rows)

    @property
    def seconds(self) -> float | None:
        """How long what is left will take; None where a variant's probe did not end well, or none was made."""
        total = self.trials.seconds or 0.0
        for row in self.rows:
            if row.done < len(row.seeds):
                if row.probe is None or row.probe.seconds is None:
                    return None
                total += row.probe.seconds * (len(row.seeds) - row.done)
        return total / self.jobs
