"""A search: trials of each variant, asked for by Optuna, run by the supervisor of studies, and told to Optuna.

Nothing is kept but the runs themselves. The sampler has a seed, so that the same command asks for the same trials
again: those that are finished are kept, and the search goes on where it was stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from ablab.config import RunConfig
from ablab.config.explain import ConfigErrors, explain
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.run_context import RunContext
from ablab.results.run_folder import check_study
from ablab.study.events import Observer, RunOutline
from ablab.study.launch import carry_out, tell_stopped, watched
from ablab.study.launched import refuse_sweep
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run, folder_name
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.prepare import info_of, make_folder, prepare
from ablab.study.searching.refused import refuse_of_a_comparison, refuse_without_optuna
from ablab.study.searching.space import as_overrides, corners, divide
from ablab.study.supervision.code import warm_up
from ablab.study.supervision.lock import StudyLock
from ablab.study.trials.choice import score
from ablab.study.trials.trial import first_of_each

if TYPE_CHECKING:
    import optuna


@dataclass(kw_only=True)
class Searched:
    """A variant and its trials."""

    label: str  # "" for the only one
    runs: list[Run]  # one for each seed, without what is searched
    study: optuna.Study
    asked: list[tuple[optuna.trial.Trial, dict[str, str]]] = field(default_factory=list)

    @property
    def best(self) -> tuple[int, dict[str, str], dict[str, Any]] | None:
        """Its number, its overrides and what Optuna asked for; None where no trial has ended well."""
        from optuna.trial import TrialState

        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done:
            return None
        trial = min(done, key=lambda each: (each.value, each.number))
        return trial.number, self.asked[trial.number][1], trial.params


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
        self.variants = _variants(prepared.runs, sampler)
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
                variant.asked.append((trial, as_overrides(trial.params)))
                batch.append(((variant, trial), self._planned(place, trial.number)))
        return batch

    def _planned(self, place: int, number: int) -> list[PlannedRun]:
        variant, planned = self.variants[place], []
        for which, run in enumerate(variant.runs):
            config, folder = self._compose(_trial_of(run, number, variant.asked[number][1]))
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
            if value < float("inf"):
                variant.study.tell(trial, value)
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
        return info_of(config, index, _label(self.variants[place].label, number))

    def _try_out(self, run: Run) -> None:
        """Raises UserError where a variant cannot be built at the ends of what is searched."""
        for corner in corners(self.space):
            tried = _trial_of(run, 0, corner)
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


def _variants(runs: Sequence[Run], sampler: Callable[[], optuna.samplers.BaseSampler]) -> list[Searched]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # each run has its line
    if len({override for run in runs for override in run.overrides if override.startswith("task=")}) > 1:
        raise UserError("task: a search is of one task; give a command for each")
    return [
        Searched(
            label=label,
            runs=[run for run in runs if run.variant == label],
            study=optuna.create_study(direction="minimize", sampler=sampler()),
        )
        for label in first_of_each(runs)
    ]


def _trial_of(run: Run, number: int, settings: dict[str, str]) -> Run:
    *above, seed = (run.folder or "").split("/")
    return replace(
        run,
        overrides=[*run.overrides, *(f"{key}={value}" for key, value in settings.items())],
        context=RunContext(variant=_label(run.variant, number)),
        folder="/".join([*above, folder_name(f"trial={number}"), seed]),
    )


def _label(variant: str, number: int) -> str:
    return f"{variant},trial={number}" if variant else f"trial={number}"
