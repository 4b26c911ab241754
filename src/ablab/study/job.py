"""One run asked for by itself: `ablab attention=lsh`, or a job of a Hydra launcher other than ours."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ablab.config import RunConfig, fingerprint, resolve
from ablab.config.identity import what_differs
from ablab.config.ladder import NO_LADDER
from ablab.config.schema import FOR_SWEEPS, refuse_shadowed
from ablab.config.yaml_files import refuse_misread
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.run_folder import check_ours
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.events import Observer
from ablab.study.launch import finished_record, launch, tell_damage, tell_outdated
from ablab.study.launched import check_place, refuse_sweep, run_together
from ablab.study.plan_file import PlannedRun
from ablab.study.plan_reader import find_run
from ablab.study.planning import budget, ladder
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.prepare import info_of, refuse_devices
from ablab.study.supervision.lock import run_lock
from ablab.study.supervision.supervisor import supervise
from ablab.study.supervision.watchdog import OwnWatchdog
from ablab.study.trials import tuning
from ablab.training.begin import prepare_folder
from ablab.training.build import BuiltRun
from ablab.training.callbacks import Progress
from ablab.training.run import execute
from ablab.training.stacks import forget_stacks
from ablab.training.stopping import sigterm_as_interrupt
from ablab.training.warm_start import check_steps_left
from ablab.training.world import World, launched


@contextlib.contextmanager
def run_bar(label: str) -> Iterator[Progress]:
    """Shows a bar on a terminal while a run runs, and nothing elsewhere; the value is called with its progress."""
    console = Console(soft_wrap=True, highlight=False)
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(escape(label), total=None, shown="starting")

    def report(step: int, steps: int, shown: str) -> None:
        bar.update(task, completed=step, total=steps, shown=escape(shown))

    with bar:
        yield report


def run_job(config: DictConfig) -> Record:
    """Check, run and describe the run that a composed config asks for, in the folder that Hydra made for it.

    A job of a sweep finds its run in the plan that the sweep left: what has been edited since then does not count.

    Raises:
        UserError: the run cannot work, or its folder holds another run. Nothing is left behind.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    of_sweep = hydra.mode == RunMode.MULTIRUN
    if of_sweep and (planned := find_run(Path(hydra.runtime.cwd, hydra.sweep.dir), folder)):
        return _run_planned(planned)
    choices: Any = OmegaConf.to_container(hydra.runtime.choices)
    words: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # as they were written
    try:
        refuse_shadowed(hydra.runtime.config_sources)
        refuse_misread(hydra.runtime.config_sources, choices)
        if not of_sweep:
            _refuse_what_is_for_sweeps(words)
        asked = resolve(config, choices, words, sources=hydra.runtime.config_sources)
        budget.refuse_for_one_run(asked)
        tuning.refuse_for_one_run(asked)
        ladder.refuse_for_one_run(asked)
        if not of_sweep:
            refuse_devices(asked)
        preflight = Preflight()
        built = preflight.build(asked)
        check_steps_left(asked, folder)
        check_place(asked)
        if of_sweep:  # of another sweeper than ours
            return _run_planned(PlannedRun(info=info_of(asked, 0), config=asked, folder=folder))
        outdated: list[Path] = []
        # Asking for a run is asking for it again.
        record = finished_record(asked, folder, preflight, retry_failed=True, outdated=outdated)
        tell_outdated([Path(_shown(each)) for each in outdated])
        if record is None:
            _check_free(folder, asked)
    except BaseException:
        _remove_if_empty(folder)
        raise
    if record is not None:
        print(f"finished already: {_shown(folder)}")
        tell_damage(folder, record)
    else:
        with run_bar(f"seed={asked.seed}") as report:
            record = _run(built, folder, report)
    _summarise(record, folder)
    return record


def _run_planned(run: PlannedRun) -> Record:
    """By the same supervisor as under our own launcher, so that its rules for failures hold."""
    refuse_sweep()  # a job of which the launcher has started several
    settings = run.config.execution
    run = replace(run, info=replace(run.info, index=0))
    record = launch([run], replace(settings, jobs=1, on_failure="continue"), Observer())[0]
    _summarise(record, run.folder)
    return record


def _run(built: BuiltRun, folder: Path, report: Progress) -> Record:
    config = built.config
    if launched() is not None:
        return run_together(built, folder, report)
    if config.processes > 1:
        return supervise(config, folder, report)
    with run_lock(folder, wait_s=1.0):
        prepare_folder(config, folder)
        watch = OwnWatchdog(World(), config, folder, lambda record: _tell_end(record, folder))
        try:
            with sigterm_as_interrupt():
                return execute(config, folder, progress=report, beat=watch.beat, built=built)
        finally:
            watch.close()
            forget_stacks(folder)


def _tell_end(record: Record, folder: Path) -> None:
    """Say how a run ended whose process ends at once, and give the terminal back, whose cursor the bar has hidden."""
    Console().show_cursor()
    _summarise(record, folder)
    sys.stderr.flush()


def _refuse_what_is_for_sweeps(asked: list[str]) -> None:
    """Raises UserError where one run is asked for what only sweeps have: it would change nothing.

    To leave out the ladder of a study's file does change something.
    """
    for override in asked:
        if override == NO_LADDER:
            continue
        if override.lstrip("+").split("=")[0].split(".")[0] in FOR_SWEEPS:
            raise UserError(f"{override}: is for sweeps, and this is one run; add -m")


def _check_free(folder: Path, config: RunConfig) -> None:
    check_ours(folder)
    if not (folder / RECORD_FILE).exists():
        return
    if (other := read_record(folder / RECORD_FILE)).fingerprint != fingerprint(config):
        differing = what_differs(config.shown(), other.config)
        raise UserError(
            f"{_shown(folder)}: holds another run (this one has {differing}); choose another name=..., or move it away"
        )


def _remove_if_empty(folder: Path) -> None:
    """Hydra has made the folder of a run that never began, and perhaps those above it."""
    with contextlib.suppress(OSError):
        for path in (folder, *folder.parents):
            if path == Path.cwd():
                break
            path.rmdir()


def _summarise(record: Record, folder: Path) -> None:
    if record.status == "ok" and record.primary is not None:
        speed = f", {record.cost.tokens_per_second:,.0f} tokens/s" if record.cost.tokens_per_second else ""
        metric = record.primary.name
        print(f"{metric} {record.metrics[metric]:.4f} after {record.cost.steps} steps{speed}; {_shown(folder)}")
    else:
        print(f"{record.status}: {record.reason}; {_shown(folder)}", file=sys.stderr)


def _shown(folder: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(folder.relative_to(Path.cwd()))
    return str(folder)
