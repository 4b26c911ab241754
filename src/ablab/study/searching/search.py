"""A search: trials of each variant, asked for by Optuna, run by the supervisor of studies, and told to Optuna.

Nothing is kept but the runs themselves. The sampler has a seed, so that the same command asks for the same trials
again: those that are finished are kept, and the search goes on where it was stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from ablab.config import RunConfig
from ablab.config.explain import ConfigErrors, explain
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.run_folder import check_study
from ablab.study.events import Observer, RunOutline
from ablab.study.launch import carry_out, tell_stopped, watched
from ablab.study.launched import refuse_sweep
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.prepare import info_of, make_folder, prepare
from ablab.study.searching.refused import refuse_of_a_comparison, refuse_without_optuna
from ablab.study.searching.space import as_overrides, corners, divide
from ablab.study.searching.variant import Searched, label_of, trial_of, variants_of
from ablab.study.supervision.code import warm_up
from ablab.study.supervision.lock import StudyLock
from ablab.study.trials.choice import score

if TYPE_CHECKING:
    import optuna


class OptunaSearch:
    """`ablab -m hydra/sweeper=optuna ...`

    Args:
        loader, config: Hydra's, of the multirun as a whole.
        arguments: overrides.
        n_trials: of each variant.
        n_jobs: trials of each variant that are asked for at once.
        sampler: makes a sampler of Optuna's; each variant has one of its own, and with it the same first trials.

    Raises:
        UserError: nothing is to be searched, Optuna is not there, or something is asked for that is no search's.
    """

    def __init__(
        self,
        loader: ConfigLoader,
        config: DictConfig,
        arguments: Sequence[str],
        *,
        n_trials: int,
        n_jobs: int,
        sampler: Callable[[], optuna.samplers.BaseSampler],
    ) -> None:
        refuse_without_optuna()
        for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            if value < 1:
                raise UserError(f"hydra.sweeper.{name}={value}: must be 1 at least")
        refuse_of_a_comparison(config, arguments)
        self.folder = Path(config.hydra.sweep.dir)
        self.n_trials, self._n_jobs = n_trials, n_jobs
        self.space, rest = divide(OverridesParser.create(config_loader=loader).parse_overrides(list(arguments)))
        self.given = [str(override.input_line) for override in rest]
        if gone := next((override for override in rest if override.is_delete()), None):
            raise UserError(f"{gone.input_line}: a search takes nothing out of a config; leave it out")
        self._compose, self._preflight = Composer(loader, config), Preflight()
        prepared = prepare(self._compose, self.given, self._preflight)
        prepared.refuse_errors()
        self.variants = variants_of(prepared.runs, sampler)
        for variant in self.variants:
            self._try_out(variant.runs[0])

    @property
    def seeds(self) -> list[int]:
        """That every trial is run on."""
        return [self._compose(run)[0].seed for run in self.variants[0].runs]

    @property
    def option_folders(self) -> list[str]:
        """Of options of the user's own, as the command names them."""
        paths = self._compose.loader.get_search_path().get_path()
        given = [path.path.removeprefix("file://") for path in paths if path.provider == "command-line"]
        return [os.path.relpath(folder) for folder in given]

    def run(self, observe: Callable[[], Observer]) -> list[Record]:
        """See the search to its end; the records of all trials.

        Raises:
            KeyboardInterrupt: Ctrl-C, after running runs have saved themselves.
            UserError: another process works on the search.
        """
        refuse_sweep()
        warm_up()
        check_study(self.folder)
        make_folder(self.folder)
        observer, records = observe(), list[Record]()
        stopped_by: str | None = None
        with StudyLock(self.folder) as lock, watched([], _Promised(observer, self._outlines())):
            for _ in range(0, self.n_trials, self._n_jobs):
                batch = self._ask()
                planned = [run for _, runs in batch for run in runs]
                settings = planned[0].config.execution
                found, stopped_by = carry_out(planned, settings, observer, self._preflight, lock.beat)
                self._tell(batch, found)
                records += found.values()
                if stopped_by:
                    break
        tell_stopped(stopped_by)
        return records

    def _ask(self) -> list[tuple[tuple[Searched, optuna.trial.Trial], list[PlannedRun]]]:
        """The next trials of all variants."""
        batch = []
        for _ in range(min(self._n_jobs, self.n_trials - len(self.variants[0].asked))):
            for place, variant in enumerate(self.variants):
                trial = variant.study.ask(dict(self.space))
                variant.asked.append(as_overrides(trial.params))
                batch.append(((variant, trial), self._planned(place, trial.number)))
        return batch

    def _planned(self, place: int, number: int) -> list[PlannedRun]:
        variant, planned = self.variants[place], []
        for which, run in enumerate(variant.runs):
            config, folder = self._compose(trial_of(run, number, variant.asked[number]))
            planned.append(PlannedRun(info=self._outline(place, number, which, config), config=config, folder=folder))
        return planned

    def _tell(
        self, batch: list[tuple[tuple[Searched, optuna.trial.Trial], list[PlannedRun]]], found: dict[int, Record]
    ) -> None:
        """What came of trials: their mean over the seeds; one that diverged is pruned, one that failed is nothing."""
        from optuna.trial import TrialState

        for (variant, trial), planned in batch:
            records = [found.get(run.info.index) for run in planned]
            value = score(records)
            variant.told += 1
            if value < float("inf"):
                variant.study.tell(trial, value)
                variant.primary = next(record.primary for record in records if record is not None)
            else:
                diverged = any(record is not None and record.status == "diverged" for record in records)
                variant.study.tell(trial, state=TrialState.PRUNED if diverged else TrialState.FAIL)

    def _outlines(self) -> list[RunOutline]:
        configs = [[self._compose(run)[0] for run in variant.runs] for variant in self.variants]
        return [
            self._outline(place, number, which, config)
            for number in range(self.n_trials)
            for place, of_variant in enumerate(configs)
            for which, config in enumerate(of_variant)
        ]

    def _outline(self, place: int, number: int, which: int, config: RunConfig) -> RunOutline:
        seeds = len(self.variants[0].runs)
        index = (number * len(self.variants) + place) * seeds + which
        return info_of(config, index, label_of(self.variants[place].label, number))

    def _try_out(self, run: Run) -> None:
        """Raises UserError where a variant cannot be built at the ends of what is searched."""
        for corner in corners(self.space):
            tried = trial_of(run, 0, corner)
            try:
                self._preflight.check(self._compose(tried)[0])
            except (UserError, *ConfigErrors) as error:
                line = str(error) if isinstance(error, UserError) else explain(error)
                raise UserError(f"{line} [in the run {' '.join(tried.overrides)}]") from error


class _Promised(Observer):
    """Tells an observer of all trials when it is told of none: what is asked in them is known later."""

    def __init__(self, observer: Observer, runs: list[RunOutline]) -> None:
        self._observer, self._runs = observer, runs

    def planned(self, runs: Sequence[RunOutline]) -> None:
        self._observer.planned(self._runs)

    def close(self) -> None:
        self._observer.close()
