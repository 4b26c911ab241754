"""How much longer a run takes, and the whole study: its queue played through on as many places as it has."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from statistics import fmean

from ablab.report.live.state import RunState, StudyState


def of_run(study: StudyState, run: RunState) -> float | None:
    """Seconds until a running run has taken its last step: at its own speed, else at that of others; None if unknown.

    Counts down while nothing is heard of the run, since it evaluates or starts.
    """
    return _of_run(study, run, _Prediction(study))


def of_study(study: StudyState, runs: Sequence[RunState] | None = None) -> float | None:
    """Seconds until the last run has ended; None if nothing is known yet, or if no more runs will be started.

    Waiting runs are given, in the order of the plan, to whichever place is free first; there are as many places as
    runs have been seen side by side.

    Args:
        runs: of those that have not been started, these alone; default: all.
    """
    if study.stopping or not study.beside:
        return None
    prediction = _Prediction(study)
    running = study.running
    places = [_of_run(study, run, prediction) for run in running]
    free = [seconds for seconds in places if seconds is not None]
    if len(free) < len(places):
        return None
    free += [0.0] * (study.beside - len(free))
    heapq.heapify(free)
    for run in _queue(study, study.runs if runs is None else runs):
        rate = prediction.seconds_per_step(run)
        if rate is None:
            return None
        pause = max(run.again_at - study.now(), 0.0) if run.phase == "retrying" else 0.0
        heapq.heapreplace(free, free[0] + pause + rate * run.info.steps)
    return max(free)


def _queue(study: StudyState, runs: Sequence[RunState]) -> list[RunState]:
    """The runs that have yet to be started, those that are tried again first."""
    retrying = [run for run in study.active.values() if run.phase == "retrying"]
    return retrying + [run for run in runs if run.phase == "waiting" and not run.needless]


def _of_run(study: StudyState, run: RunState, prediction: _Prediction) -> float | None:
    speed = run.speed.steps_per_second
    rate = 1 / speed if speed else prediction.seconds_per_step(run)
    return None if rate is None else max(rate * run.left - (study.now() - run.heard_at), 0.0)


class _Prediction:
    """Seconds per step of a run that has no speed of its own.

    The nearest relatives are asked first: ended runs of the variant, running ones of it, all ended runs, all running.
    """

    def __init__(self, study: StudyState) -> None:
        self._pace = study.pace
        self._running: dict[tuple[str, str] | None, list[float]] = {}
        for run in study.running:
            if speed := run.speed.steps_per_second:
                for whom in ((run.info.task, run.info.variant), None):
                    self._running.setdefault(whom, []).append(1 / speed)

    def seconds_per_step(self, run: RunState) -> float | None:
        rates = (
            self._pace.of(run.info),
            self._mean((run.info.task, run.info.variant)),
            self._pace.of_all(),
            self._mean(None),
        )
        return next((rate for rate in rates if rate is not None), None)

    def _mean(self, whom: tuple[str, str] | None) -> float | None:
        rates = self._running.get(whom)
        return fmean(rates) if rates else None
