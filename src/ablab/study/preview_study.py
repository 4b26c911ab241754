"""What a study will do and what that will cost, before anything is paid: the plan, its errors, a short probe."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ablab.config import Node, RunConfig
from ablab.config.schema import AUTO, ExecutionConfig
from ablab.results.record import Record
from ablab.study.events import Observer
from ablab.study.launch import finished_record
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.expand import Run
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.prepare import as_if_run, asked
from ablab.study.preview import Preview, Probe, Row, Size, Trials
from ablab.study.run_study import Study
from ablab.study.supervision.code import freeze_code, warm_up
from ablab.study.supervision.resources import side_by_side
from ablab.study.supervision.supervisor import Supervisor
from ablab.study.trials.pilot import ROUNDS, pilots_done
from ablab.study.trials.search import Search

STEPS = 8  # of a probe: four blocks of two, the first of which only warms up, and an evaluation after every other
TIMEOUT_S = 120.0


def preview(study: Study, probe: bool) -> Preview:
    """The preview of a study; nothing is written into its folder.

    Args:
        probe: train the first run of every variant on every task for a moment, in a folder that is removed.

    Raises:
        UserError: there is no plan to speak of; see `prepare`.
    """
    if probe:
        warm_up()
    prepared = study.prepare()
    errors = [(asked(run, prepared.runs), error) for run, error in prepared.errors]
    notes = [*prepared.excluded, *prepared.budgets, *prepared.alone]
    if errors:
        return Preview(folder=study.folder, runs=len(prepared.runs), errors=errors, notes=notes)
    before = study.before
    timed = before.timed(prepared.runs)
    planned = study.planned(before.tuned(timed))
    rows = _rows(planned, study.preflight)
    settings = planned[0].config.execution
    jobs = side_by_side([run.config for run in planned], settings)
    firsts = [row.first for row in rows]
    probed = [run for run in planned if run.info in firsts] if probe else []
    probes = _probe(probed, _without_trials(settings, jobs)) if probe else {}
    for row in rows:
        row.probe = probes.get(row.first.index)
    trials = _trials(before.search(timed), prepared.runs, planned, rows, before.has_ended)
    return Preview(
        folder=study.folder,
        runs=len(planned),
        notes=notes,
        rows=rows,
        jobs=jobs,
        trials=trials,
        question=planned[0].config.question,
        planned=as_if_run(planned, study.preflight),
        seeds=study.seeds,
        ladder=_sizes(planned, rows),
    )


def _sizes(planned: Sequence[PlannedRun], rows: Sequence[Row]) -> list[Size]:
    """The sizes of the study's ladder on each task; nothing where it has none."""
    of_size: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if ladder := planned[row.first.index].context.ladder:
            of_size.setdefault((row.first.task, ladder.rung), []).append(row)
    sizes = []
    for (task, _), each in of_size.items():
        first = planned[each[0].first.index]
        assert first.context.ladder is not None
        times = [row.probe.seconds * len(row.seeds) if row.probe and row.probe.seconds else None for row in each]
        sizes.append(
            Size(
                report=first.context.ladder,
                task=task,
                steps=first.info.steps,
                runs=sum(len(row.seeds) for row in each),
                seconds=None if None in times else sum(time or 0.0 for time in times),
            )
        )
    return sizes


def _rows(planned: Sequence[PlannedRun], preflight: Preflight) -> list[Row]:
    """Runs that differ in their seed alone, side by side."""
    rows: dict[tuple[str, str], Row] = {}
    for run in planned:
        row = rows.setdefault((run.info.task, run.info.variant), Row(first=run.info))
        row.seeds.append(run.info.seed)
        kept = finished_record(run.config, run.folder, preflight, run.config.execution.retry == "failed")
        row.done += kept is not None
    return list(rows.values())


def _without_trials(settings: ExecutionConfig, jobs: int) -> ExecutionConfig:
    """Settings by which probes go side by side as the runs would, had nothing been tried before them."""
    return replace(settings, runs_per_device=1, jobs=jobs) if settings.runs_per_device == AUTO else settings


def _probe(runs: Sequence[PlannedRun], settings: ExecutionConfig) -> dict[int, Probe]:
    """What each of these runs takes, by its place in the plan."""
    with tempfile.TemporaryDirectory(prefix="ablab-probe-") as folder:
        probes = [
            replace(run, config=_shortened(run.config), folder=Path(folder) / str(run.info.index)) for run in runs
        ]
        freeze_code(run.config for run in probes)
        supervisor = Supervisor(replace(settings, retries=0, timeout=TIMEOUT_S, on_failure="continue"), Observer())
        records = supervisor.run(probes)
    return {run.info.index: _measured(records[run.info.index], run) for run in runs}


def _shortened(config: RunConfig) -> RunConfig:
    often = {"max_steps": STEPS, "val_check_interval": STEPS // 2, "log_every_n_steps": STEPS // 4}
    alone: Node = {"schedule.anneal_at": []} if _shares(config) else {}
    return config.with_values({**{f"trainer.{name}": steps for name, steps in often.items()}, "logger": {}, **alone})


def _shares(config: RunConfig) -> list[float]:
    """At which shares of it a run gives a shorter one on its way."""
    return list(config.options["schedule"].get("anneal_at") or [])


def _measured(record: Record, run: PlannedRun) -> Probe:
    """The time of the whole run, from that of a short one: start, steps and evaluations each in their number."""
    cost, trainer = record.cost, run.config.trainer
    parts = (cost.wall_time_s, cost.train_time_s, cost.evaluation_time_s)
    if record.status != "ok" or None in parts:
        return Probe(error=record.reason or record.status)
    wall, train, evaluation = (part or 0.0 for part in parts)
    tested = any(name.startswith("test_") for name in record.metrics)
    probe = Probe(
        step_seconds=train / STEPS,
        start_seconds=max(0.0, wall - train - evaluation),
        evaluation_seconds=evaluation / (2 + tested),
        tested=tested,
        memory_bytes=cost.peak_memory_bytes,
    )
    shares = _shares(run.config)
    steps = trainer.max_steps * (1 + sum(shares) * float(run.config.options["schedule"].get("decay_share", 0)))
    evaluations = _evaluations(run.config, trainer.max_steps, probe) + len(shares) * (1 + tested)
    return replace(probe, seconds=probe.lasting(steps, evaluations))


def _evaluations(config: RunConfig, steps: int, probe: Probe) -> int:
    """How many evaluations a run of so many steps makes."""
    return math.ceil(steps / config.trainer.val_check_interval) + probe.tested


def _trials(
    search: Search,
    runs: Sequence[Run],
    planned: Sequence[PlannedRun],
    rows: Sequence[Row],
    ended: Callable[[Run], bool],
) -> Trials:
    """The runs that the study makes for itself before it compares, and how long those that are left take altogether."""
    config = planned[0].config
    rounds = ROUNDS if config.budget.match == "time" else 0
    timed = pilots_done(config, runs, ended) if rounds else Counter[str]()
    tuned = search.done(ended)
    of = {row.first.index: runs[row.first.index].variant for row in rows}
    counts = {place: search.counts.get(variant, 0) for place, variant in of.items()}
    done = {place: (tuned.get(variant, 0), timed[variant]) for place, variant in of.items()}
    count = sum(counts.values()) + len(rows) * rounds
    chosen = any(run.context.tuning for run in planned)  # by now: no grid is extended any more
    found = Trials(count=count, done=sum(map(sum, done.values())), more=0 if chosen else search.most - search.count)
    if any(row.probe is None or row.probe.step_seconds is None for row in rows):
        return found
    seconds = 0.0
    for row in rows:
        assert row.probe is not None
        assert row.probe.step_seconds is not None
        place = row.first.index
        each = planned[place].config
        for left, steps in (
            (counts[place] - done[place][0], config.tune.max_steps or row.first.steps),
            (rounds - done[place][1], config.budget.pilot_steps),
        ):
            seconds += left * row.probe.lasting(steps, _evaluations(each, steps, row.probe))
    return replace(found, seconds=seconds)
