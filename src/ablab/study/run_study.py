"""A study from its command to its last run: planned, checked, written down, tuned, run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from ablab.config.composed import comparison_of, to_plain
from ablab.config.redact import hand_over
from ablab.config.schema import ComparisonConfig, ExecutionConfig
from ablab.config.seeds import with_seeds
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.interim import read_interim_analyses
from ablab.results.record import Record
from ablab.results.run_folder import check_study
from ablab.results.store import RECORD_FILE, read_record, write_record
from ablab.study.events import Observer
from ablab.study.launch import finished_record, launch, launch_in_blocks, tell_damage, tell_outdated
from ablab.study.launched import refuse_nodes, refuse_sweep
from ablab.study.plan_file import PlannedRun, write_plan
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.prepare import Prepared, as_if_run, info_of, make_folder, prepare
from ablab.study.seed_blocks import Decide, SeedBlocks, refuse_undecidable
from ablab.study.supervision.code import freeze_for_jobs, warm_up
from ablab.study.supervision.lock import StudyLock
from ablab.study.trials.pilot import match_time
from ablab.study.trials.tuning import tune
from ablab.training.begin import new_record

Launch = Callable[[Sequence[Sequence[str]]], Sequence[JobReturn]]


class Study:
    """A multirun. `run` runs it; `plan` only looks at it.

    Args:
        loader, config: Hydra's, of the multirun as a whole.
        arguments: overrides, swept or not.
        observe: makes what shows the progress of one launch.
        check_comparison: raises UserError where the comparison that is declared cannot be made of the planned runs.
        decide: draws the verdicts at each look at a study with seed=auto.
        foreign: launches lists of overrides by another launcher than ours; None: ours does it.
    """

    def __init__(
        self,
        loader: ConfigLoader,
        config: DictConfig,
        arguments: Sequence[str],
        observe: Callable[[], Observer],
        check_comparison: Callable[[ComparisonConfig, Runs], None] = lambda declared, planned: None,
        decide: Decide = lambda runs, seeds, comparison: [],
        foreign: Launch | None = None,
    ) -> None:
        self.folder = Path(config.hydra.sweep.dir)
        self.comparison = comparison_of(config)
        # None: all seeds are given, and made.
        self._arguments, self.seeds = with_seeds(list(arguments), config.seed, to_plain(config.seeds))
        self._observe, self._foreign = observe, foreign
        self._check_comparison, self._decide = check_comparison, decide
        self._compose, self.preflight = Composer(loader, config), Preflight()
        self._copies: Path | None = None  # of code and configs, for jobs of another launcher
        self._left_alive = False  # perhaps: jobs of a launcher that gave up

    def prepare(self) -> Prepared:
        """The plan, checked as a whole; nothing has been written.

        Raises:
            UserError: as `prepare` and the check of the comparison do.
        """
        prepared = prepare(self._compose, self._arguments, self.preflight)
        if not prepared.errors:
            planned = as_if_run(self.planned(prepared.runs), self.preflight)
            self._check_comparison(self.comparison, planned)
            if self.seeds is not None:
                refuse_undecidable(planned, self.seeds, self.comparison)
        return prepared

    def planned(self, runs: Sequence[Run]) -> list[PlannedRun]:
        """The runs with their configs."""
        composed = [self._compose(run) for run in runs]
        looks = [asdict(look) for look in read_interim_analyses(self.folder)]
        planned_looks = None if self.seeds is None else self.seeds.plan_of_looks
        return [
            PlannedRun(
                info=info_of(config, index, run.context.variant),
                config=config,
                folder=folder,
                context=replace(
                    run.context,
                    corpus=self.preflight.task(config).corpus.sha256,
                    looks=looks,
                    planned_looks=planned_looks,
                ),
            )
            for index, (run, (config, folder)) in enumerate(zip(runs, composed, strict=True))
        ]

    def run(self) -> list[JobReturn]:
        """See the study to its end.

        Raises:
            UserError: a run of the plan cannot be composed or built, and nothing has been written; or another process
                works on the study.
            KeyboardInterrupt: Ctrl-C, after running runs have saved themselves.
        """
        refuse_sweep()
        if not self._has_options_of_the_users():
            warm_up()  # imports on another core while the plan is checked here
        prepared = self.prepare()
        prepared.refuse_errors()
        if self._foreign is not None:
            _refuse_ours(self._compose(prepared.runs[0])[0].execution)
        else:
            for run in prepared.runs:
                refuse_nodes(self._compose(run)[0])
        for line in [*prepared.excluded, *prepared.budgets]:
            print(line)
        check_study(self.folder)
        make_folder(self.folder)
        with StudyLock(self.folder) as lock:
            if lock.taken_over:
                print(f"{self.folder}: {lock.taken_over} stopped without finishing it; going on from what it left")
            write_plan(self.folder, self.comparison, None)

            def trials(runs: list[Run]) -> object:
                return self._launch(runs, self.planned(runs), lock)

            runs = match_time(self._compose, prepared.runs, trials)
            runs = tune(self._compose, runs, trials)
            planned = self.planned(runs)
            write_plan(self.folder, self.comparison, planned, self.seeds)
            returns = (self._launch if self.seeds is None else self._launch_in_blocks)(runs, planned, lock)
        if self._copies is not None and not self._left_alive:
            shutil.rmtree(self._copies, ignore_errors=True)
        return returns

    def _has_options_of_the_users(self) -> bool:
        """Whose modules are known when the plan is, and have to be imported, too."""
        return any(path.provider == "command-line" for path in self._compose.loader.get_search_path().get_path())

    def _launch(self, runs: Sequence[Run], planned: Sequence[PlannedRun], lock: StudyLock) -> list[JobReturn]:
        settings = planned[0].config.execution
        if self._foreign is None:
            records = launch(planned, settings, self._observe(), self.preflight, lock.beat)
            return [job_return(records.get(run.info.index)) for run in planned]
        return self._launch_elsewhere(runs, planned, retry_failed=settings.retry == "failed")

    def _launch_in_blocks(self, runs: Sequence[Run], planned: Sequence[PlannedRun], lock: StudyLock) -> list[JobReturn]:
        assert self.seeds is not None
        settings = planned[0].config.execution
        blocks = SeedBlocks(
            study=self.folder, planned=planned, seeds=self.seeds, comparison=self.comparison, decide=self._decide
        )
        if self._foreign is None:
            records = launch_in_blocks(blocks, settings, self._observe(), self.preflight, lock.beat)
            return [job_return(record) for record in records.values()]
        returns: list[JobReturn] = []

        def carry_out(block: list[PlannedRun]) -> bool:
            asked = [runs[run.info.index] for run in block]
            returns.extend(self._launch_elsewhere(asked, block, retry_failed=settings.retry == "failed"))
            return not self._left_alive

        blocks.run(carry_out, lambda block: print(f"seed=auto: {block.sentence()}"))
        return returns

    def _lying(self, run: Run, planned: PlannedRun) -> Run:
        """The run with its folder: a launcher that is given some of the runs alone would count them anew."""
        return replace(run, folder=run.folder or str(planned.folder.relative_to(self.folder)))

    def _launch_elsewhere(
        self, runs: Sequence[Run], planned: Sequence[PlannedRun], retry_failed: bool
    ) -> list[JobReturn]:
        """Hand the runs that are left to another launcher; each of its jobs finds its run in the plan on the disk."""
        assert self._foreign is not None
        returns = {}
        outdated: list[Path] = []
        for place, run in enumerate(planned):
            record = finished_record(run.config, run.folder, self.preflight, retry_failed, outdated)
            if record is not None:
                returns[place] = job_return(record)
                tell_damage(run.folder, record)
        tell_outdated(outdated)
        left = [place for place in range(len(runs)) if place not in returns]
        if not left:
            return [returns[place] for place in range(len(runs))]
        print(f"{len(returns)} of {len(runs)} runs are done with; {len(left)} are launched")
        if self._copies is None:
            configs = [run.config for run in planned]
            self._copies = freeze_for_jobs(self.folder, self._compose.loader, configs)
        for place in left:
            hand_over(planned[place].config.options)
        gave_up = ""
        try:
            self._foreign([self._lying(runs[place], planned[place]).hydra_overrides for place in left])
        except Exception as error:  # a job that died: what the others left behind counts all the same
            gave_up = f": {' '.join(str(error).split())[:300]}"
            self._left_alive = True
            print(f"ablab: the launcher gave up{gave_up}", file=sys.stderr)
        returns |= {place: job_return(_left_by_job(planned[place], gave_up)) for place in left}
        return [returns[place] for place in range(len(runs))]


def _left_by_job(run: PlannedRun, gave_up: str) -> Record:
    """The record that a job of another launcher left; one that left none is a row with its reason all the same."""
    try:
        return read_record(run.folder / RECORD_FILE)
    except UserError:
        record = new_record(run.config, run.context)
        record.status, record.cause = "interrupted", None
        record.reason = f"its job ended without a record{gave_up}"
        write_record(run.folder, record)
        return record


def _refuse_ours(settings: ExecutionConfig) -> None:
    """Raises UserError where something is asked for that only our own launcher does."""
    asked = {"jobs": settings.jobs is not None, "runs_per_device": settings.runs_per_device > 1}
    asked["on_failure"] = settings.on_failure != "continue"
    for name, given in asked.items():
        if given:
            raise UserError(f"{name}={getattr(settings, name)}: other launchers have settings of their own for that")


def job_return(record: Record | None) -> JobReturn:
    """What Hydra is told of a run: a failure is a finding of the sweep, not an error of it.

    The value is the primary metric, for sweepers that search; NaN where there is none.
    """
    job = JobReturn(status=JobStatus.COMPLETED)
    job.return_value = objective(record)
    return job


def objective(record: Record | None) -> float:
    """The primary metric of a run that went well, else NaN."""
    if record is None or record.status != "ok" or record.primary is None:
        return float("nan")
    return record.metrics.get(record.primary.name, float("nan"))


def launch_overrides(
    loader: ConfigLoader, config: DictConfig, plan: Sequence[Sequence[str]], first: int, observe: Callable[[], Observer]
) -> list[JobReturn]:
    """Our launcher under another sweeper than ours, as one that searches: each run by the same supervisor.

    Raises:
        UserError: a run cannot be composed or built, or another process works on the study.
    """
    refuse_sweep()
    compose, preflight = Composer(loader, config), Preflight()
    runs = []
    for place, overrides in enumerate(plan):
        frozen, folder = compose(Run(overrides=list(overrides)), first + place)
        try:
            preflight.check(frozen)
        except UserError as error:
            raise UserError(f"{error} [in the run {' '.join(overrides)}]") from error
        runs.append(PlannedRun(info=info_of(frozen, place), config=frozen, folder=folder))
    study = Path(config.hydra.sweep.dir)
    make_folder(study)
    with StudyLock(study) as lock:
        records = launch(runs, runs[0].config.execution, observe(), preflight, lock.beat)
    return [job_return(records.get(run.info.index)) for run in runs]
