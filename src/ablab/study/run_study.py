"""A study from its command to its last run: planned, checked, written down, tuned, run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from ablab.config.composed import comparison_of, to_plain
from ablab.config.schema import ComparisonConfig
from ablab.config.seeds import with_seeds
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.interim import read_interim_analyses
from ablab.results.run_folder import check_study
from ablab.study.events import Observer
from ablab.study.launch import carry_out, launch, launch_in_blocks, watched
from ablab.study.launched import refuse_nodes, refuse_sweep
from ablab.study.other_launcher import Launch, OtherLauncher, job_return, refuse_ours
from ablab.study.plan_file import PlannedRun, write_plan
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run
from ablab.study.planning.ladder import refuse_for_one_run
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.prepare import Prepared, as_if_run, info_of, make_folder, prepare
from ablab.study.seed_blocks import Decide, SeedBlocks, refuse_undecidable
from ablab.study.supervision.code import warm_up
from ablab.study.supervision.lock import StudyLock
from ablab.study.trials.before import Before, tuned
from ablab.study.trials.pilot import check_pilots, match_time
from ablab.study.trials.unfinished import UnfinishedError, refuse_unfinished


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
        if self.folder.is_file():
            raise UserError(f"{self.folder}: a file is in the way of the study's folder; choose another name=...")
        self.comparison = comparison_of(config)
        # None: all seeds are given, and made.
        self._arguments, self.seeds = with_seeds(list(arguments), config.seed, to_plain(config.seeds))
        self._observe = observe
        self._check_comparison, self._decide = check_comparison, decide
        self._compose, self.preflight = Composer(loader, config), Preflight()
        self._other = foreign and OtherLauncher(foreign, self.folder, self._compose, self.preflight)

    def prepare(self) -> Prepared:
        """The plan, checked as a whole; nothing has been written.

        Raises:
            UserError: as `prepare` and the checks of the comparison and of pilots do.
        """
        prepared = prepare(self._compose, self._arguments, self.preflight)
        if not prepared.errors:
            planned = as_if_run(self.planned(prepared.runs), self.preflight)
            self._check_comparison(self.comparison, planned)
            if self.seeds is not None:
                refuse_undecidable(planned, self.seeds, self.comparison)
            check_pilots(self._compose, prepared.runs)
        return prepared

    @property
    def before(self) -> Before:
        """What has been tried out for it so far."""
        return Before(self.folder, self._compose, self.preflight)

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
            UnfinishedError: the study was stopped before all had been tried out that something is chosen by.
            KeyboardInterrupt: Ctrl-C, after running runs have saved themselves.
        """
        refuse_sweep()
        if not self._has_options_of_the_users():
            warm_up()  # imports on another core while the plan is checked here
        prepared = self.prepare()
        prepared.refuse_errors()
        if self._other is not None:
            refuse_ours(self._compose(prepared.runs[0])[0].execution)
        else:
            for run in prepared.runs:
                refuse_nodes(self._compose(run)[0])
        for line in [*prepared.excluded, *prepared.budgets, *prepared.alone]:
            print(line)
        check_study(self.folder)
        make_folder(self.folder)
        with StudyLock(self.folder) as lock:
            if lock.taken_over:
                print(f"{self.folder}: {lock.taken_over} stopped without finishing it; going on from what it left")
            write_plan(self.folder, self.comparison, None)

            timed = match_time(self._compose, prepared.runs, lambda trials: self._try(trials, lock))
            runs = tuned(self._compose, timed, lambda trials: self._try(trials, lock), self.preflight)
            planned = self.planned(runs)
            write_plan(self.folder, self.comparison, planned, self.seeds)
            returns = (self._launch if self.seeds is None else self._launch_in_blocks)(runs, planned, lock)
        if self._other is not None:
            self._other.tidy()
        return returns

    def _has_options_of_the_users(self) -> bool:
        """Whose modules are known when the plan is, and have to be imported, too."""
        return any(path.provider == "command-line" for path in self._compose.loader.get_search_path().get_path())

    def _try(self, trials: Sequence[Run], lock: StudyLock) -> None:
        """See trials to their end. Raises UnfinishedError where that of some has not come."""
        planned, stopped_by = self.planned(trials), None
        settings = planned[0].config.execution
        if self._other is None:
            observer = self._observe()
            with watched(planned, observer):
                _, stopped_by = carry_out(planned, settings, observer, self.preflight, lock.beat)
        else:
            self._launch(trials, planned, lock)
        try:
            refuse_unfinished(self.folder, planned, stopped_by)
        except UnfinishedError:
            if self._other is not None:
                self._other.tidy()
            raise

    def _launch(self, runs: Sequence[Run], planned: Sequence[PlannedRun], lock: StudyLock) -> list[JobReturn]:
        settings = planned[0].config.execution
        if self._other is None:
            records = launch(planned, settings, self._observe(), self.preflight, lock.beat)
            return [job_return(records.get(run.info.index)) for run in planned]
        with lock.beating():
            return self._other.launch(runs, planned, retry_failed=settings.retry == "failed")

    def _launch_in_blocks(self, runs: Sequence[Run], planned: Sequence[PlannedRun], lock: StudyLock) -> list[JobReturn]:
        assert self.seeds is not None
        blocks = SeedBlocks(
            study=self.folder, planned=planned, seeds=self.seeds, comparison=self.comparison, decide=self._decide
        )
        settings, other = planned[0].config.execution, self._other
        if other is None:
            records = launch_in_blocks(blocks, settings, self._observe(), self.preflight, lock.beat)
            return [job_return(record) for record in records.values()]
        returns: list[JobReturn] = []

        def carry_out(block: list[PlannedRun]) -> bool:
            asked = [runs[run.info.index] for run in block]
            returns.extend(other.launch(asked, block, retry_failed=settings.retry == "failed"))
            return not other.left_alive

        with lock.beating():
            blocks.run(carry_out, lambda block: print(f"seed=auto: {block.sentence()}"))
        return returns


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
            refuse_for_one_run(frozen)
            preflight.check(frozen)
        except UserError as error:
            raise UserError(f"{error} [in the run {' '.join(overrides)}]") from error
        runs.append(PlannedRun(info=info_of(frozen, place), config=frozen, folder=folder))
    study = Path(config.hydra.sweep.dir)
    make_folder(study)
    with StudyLock(study) as lock:
        records = launch(runs, runs[0].config.execution, observe(), preflight, lock.beat)
    return [job_return(records.get(run.info.index)) for run in runs]
