"""The state of a study while it runs: how far each run is and how fast, what its steps take, what changed last."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ablab.results.record import Record, Status
from ablab.study.events import Block, RunOutline

Phase = Literal["waiting", "running", "retrying", "ended"]
SPEED_WINDOW_S = 10.0


class Speed:
    """Steps per second over the last ten seconds, or between the last two steps where they are further apart."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, at: float, step: int) -> None:
        self._seen.append((at, step))
        while len(self._seen) > 2 and self._seen[0][0] < at - SPEED_WINDOW_S:
            self._seen.popleft()

    @property
    def steps_per_second(self) -> float | None:
        if len(self._seen) < 2:
            return None
        (since, first), (until, last) = self._seen[0], self._seen[-1]
        return (last - first) / (until - since) if until > since and last > first else None


# Which runs are asked: (did they end well?, the task and variant, or None for all).
_Group = tuple[bool, tuple[str, str] | None]


class Pace:
    """Seconds per step over runs that have ended: start-up, evaluation and retries are spread over the steps.

    A run that failed or diverged counts with all its planned steps, since others of its variant are likely to end
    as early. Where some run ended well, those that did not are not asked.
    """

    def __init__(self) -> None:
        self._seconds: dict[_Group, float] = defaultdict(float)
        self._steps: dict[_Group, int] = defaultdict(int)

    def add(self, run: RunOutline, status: Status, seconds: float, trained: int) -> None:
        """`trained`: the steps that were taken in these seconds, where the run ended well."""
        if status == "interrupted":
            return  # says nothing about how long it would have taken
        for whom in ((run.task, run.variant), None):
            group = (status == "ok", whom)
            self._seconds[group] += seconds
            self._steps[group] += max(trained if status == "ok" else run.steps, 1)

    def of(self, run: RunOutline) -> float | None:
        """From runs of the same variant on the same task; None without any."""
        return self._of((run.task, run.variant))

    def of_all(self) -> float | None:
        """From all runs."""
        return self._of(None)

    def _of(self, whom: tuple[str, str] | None) -> float | None:
        for ended_well in (True, False):
            group = (ended_well, whom)
            if group in self._steps:
                return self._seconds[group] / self._steps[group]
        return None


@dataclass
class RunState:
    """One run as it stands."""

    info: RunOutline
    steps: int
    phase: Phase = "waiting"
    kept: bool = False
    record: Record | None = None  # once it has ended
    attempt: int = 0
    step: int = 0
    needless: bool = False  # a look at the others has decided what it would have helped to decide
    trained_before: int | None = None  # steps that it had taken before this supervisor started it; None: not known yet
    shown: str = ""  # a word on its quality
    heard_at: float = 0.0  # when it was last heard of
    again_at: float = 0.0  # while it is retrying
    speed: Speed = field(default_factory=Speed)

    @property
    def left(self) -> int:
        return max(self.steps - self.step, 0)


@dataclass
class Row:
    """The runs of one variant on one task."""

    task: str
    variant: str
    runs: list[RunState] = field(default_factory=list)
    changed: int = 0  # the later, the higher

    def count(self, *phases: Phase) -> int:
        return sum(run.phase in phases for run in self.runs)

    @property
    def total(self) -> int:
        """The runs that there are, at most."""
        return sum(not run.needless for run in self.runs)


class StudyState:
    """Fed by an observer's events, read by what draws. Not safe for threads: `Screen` uses it from one only.

    `clock` is read at every event, and by those who draw: `now`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.now = clock
        self.began_at = clock()
        self.runs: list[RunState] = []  # by their index
        self.rows: dict[tuple[str, str], Row] = {}  # in the order of the plan
        self.active: dict[int, RunState] = {}  # that are running or retrying
        self.records: list[Record] = []  # in the order in which their runs ended
        self.pace = Pace()
        self.beside = 0  # the most runs that have run side by side
        self.stopping = False
        self.block: Block | None = None  # of a study that makes its seeds in blocks
        self._changes = 0

    def planned(self, runs: Sequence[RunOutline]) -> None:
        self.began_at = self.now()
        self.runs = [RunState(info, info.steps) for info in sorted(runs, key=lambda info: info.index)]
        for run in self.runs:
            info = run.info
            self.rows.setdefault((info.task, info.variant), Row(info.task, info.variant)).runs.append(run)

    def started(self, info: RunOutline, attempt: int) -> None:
        run = self._changed(info, "running")
        run.attempt, run.step, run.shown, run.speed = attempt, 0, "", Speed()
        self.active[info.index] = run
        self.beside = max(self.beside, len(self.running))

    def progressed(self, info: RunOutline, step: int, steps: int, shown: str) -> None:
        run = self.runs[info.index]
        if run.trained_before is None:
            run.trained_before = max(step - 1, 0)  # a run tells of its first step
        run.step, run.steps, run.shown, run.heard_at = step, steps, shown, self.now()
        run.speed.add(run.heard_at, step)

    def waiting(self, info: RunOutline, seconds: float) -> None:
        run = self._changed(info, "retrying")
        run.again_at = run.heard_at + seconds

    def kept(self, info: RunOutline, record: Record) -> None:
        run = self._changed(info, "ended")
        run.record, run.kept = record, True
        self.records.append(record)

    def ended(self, info: RunOutline, record: Record, seconds: float) -> None:
        run = self._changed(info, "ended")
        run.record = record
        self.active.pop(info.index, None)
        self.records.append(record)
        self.pace.add(info, record.status, seconds, info.steps - (run.trained_before or 0))

    @property
    def running(self) -> list[RunState]:
        return [run for run in self.active.values() if run.phase == "running"]

    @property
    def done(self) -> int:
        """The runs that have ended, or were kept."""
        return len(self.records)

    def begin(self, block: Block) -> None:
        """Take in which runs come next, and which will not be made."""
        self.block = block
        for run in self.runs:
            run.needless = run.phase == "waiting" and run.info.index not in block.runs | block.later

    @property
    def total(self) -> int:
        """The runs that there are, at most."""
        return sum(not run.needless for run in self.runs)

    @property
    def in_block(self) -> list[RunState]:
        """The runs up to the next look; all, where no looks are made on the way."""
        return self.runs if self.block is None else [self.runs[index] for index in sorted(self.block.runs)]

    @property
    def statuses(self) -> dict[str, int]:
        """How many have ended with each status that occurs."""
        ended = [record.status for record in self.records]
        return {s: ended.count(s) for s in ("ok", "diverged", "failed", "interrupted") if s in ended}

    def _changed(self, info: RunOutline, phase: Phase) -> RunState:
        run = self.runs[info.index]
        run.phase, run.heard_at = phase, self.now()
        self._changes += 1
        self.rows[info.task, info.variant].changed = self._changes
        return run
