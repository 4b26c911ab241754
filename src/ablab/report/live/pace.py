"""How long a step of a run takes with all that belongs to it, learned from the runs that have ended."""

from __future__ import annotations

from collections import defaultdict

from ablab.results.record import Status
from ablab.study.events import RunOutline

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
