"""Where Hydra looks for plugins: the names and settings of ours. What they do is in `ablab.study`.

Every Hydra application on the machine imports this file, so it imports nothing heavy itself. Hydra executes it before
it is in `sys.modules`, where dataclasses would look for annotations that are text: so none are.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ablab.config import conf_folder, studies_folder
from ablab.errors import printable

if TYPE_CHECKING:
    from ablab.study.run_study import Study


class AblabSweeper(Sweeper):
    """Makes the plan of a study by its design, checks the whole plan and has it run.

    Args:
        params: overrides given in a config (a study file) instead of on the command line, which has the last word.
    """

    config: DictConfig  # Hydra calls `setup` before anything else

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self._params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self._context = hydra_context
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        from ablab.report.conclude import compare_so_far
        from ablab.report.declared import declared_settings
        from ablab.study.trials.unfinished import UnfinishedError

        study = self._study(arguments)
        try:
            return study.run()
        except UnfinishedError as error:  # as of a study that is stopped later, without what is not there to compare
            print(printable(f"ablab: {error}"), file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            compare_so_far(study.folder, **declared_settings(study.comparison))
            raise

    def _study(self, arguments: list[str]) -> "Study":
        from ablab.analysis.decisions import decide
        from ablab.analysis.declared import check_declared
        from ablab.config.composed import to_plain
        from ablab.report.live.screen import observer
        from ablab.study.planning.parameters import overrides_of
        from ablab.study.run_study import Study

        given = overrides_of(to_plain(self._params), self.config)
        own = isinstance(self._launcher, AblabLauncher)
        return Study(
            self._context.config_loader,
            self.config,
            [*given, *arguments],
            observe=observer,
            check_comparison=check_declared,
            decide=decide,
            foreign=None if own else self._launch_elsewhere,
        )

    def _launch_elsewhere(self, runs: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        from ablab.config.redact import redact_override
        from ablab.study.supervision.code import hidden_secrets

        with hidden_secrets(self._launcher):
            return self._launcher.launch([[*map(redact_override, run)] for run in runs], initial_job_idx=0)


class AblabPlanner(AblabSweeper):
    """Shows the plan of a study instead of running it: what `ablab plan` takes for a sweeper.

    Args:
        probe: also train every variant for a moment, to estimate time and memory.
    """

    def __init__(self, params: dict[str, Any] | None = None, probe: bool = True) -> None:
        super().__init__(params)
        self._probe = probe

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        from ablab.report.plan import show_plan
        from ablab.study.preview_study import preview

        sys.exit(show_plan(preview(self._study(arguments), probe=self._probe)))


class OptunaSweeper(Sweeper):
    """Searches settings of each variant by Optuna, and writes the study that compares the variants at their best.

    Its settings are those of sweepers/hydra/sweeper/optuna.yaml.
    """

    config: DictConfig

    def __init__(
        self, sampler: Any = None, params: dict[str, Any] | None = None, n_trials: int = 20, n_jobs: int = 1
    ) -> None:
        self._sampler, self._params, self._n_trials, self._n_jobs = sampler, params or {}, n_trials, n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self._context = hydra_context

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        from ablab.config.composed import to_plain
        from ablab.report.live.screen import observer
        from ablab.study.planning.parameters import overrides_of
        from ablab.study.searching import best
        from ablab.study.searching.refused import refuse_launcher
        from ablab.study.searching.search import OptunaSearch

        refuse_launcher(str(self.config.hydra.launcher._target_), ours=f"{__name__}.{AblabLauncher.__name__}")
        given = overrides_of(to_plain(self._params), self.config)
        search = OptunaSearch(
            self._context.config_loader,
            self.config,
            [*given, *arguments],
            n_trials=self._n_trials,
            n_jobs=self._n_jobs,
            sampler=self._sampler,
        )
        try:
            records = search.run(observer)
        finally:
            best.tell(search)
        done = all(record.status in ("ok", "diverged") for record in records)
        sys.exit(int(not done or any(each.best is None for each in search.variants)))  # there is nothing to compare


class AblabLauncher(Launcher):
    """Runs each run in processes of its own, several side by side where asked, and sees every one to its end."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self._context = hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from ablab.report.live.screen import observer
        from ablab.study.run_study import launch_overrides

        return launch_overrides(self._context.config_loader, self.config, job_overrides, initial_job_idx, observer)


@dataclass
class SweeperConfig:
    _target_: str = f"{__name__}.AblabSweeper"
    params: dict[str, Any] | None = field(default_factory=dict)


@dataclass
class PlannerConfig(SweeperConfig):
    _target_: str = f"{__name__}.AblabPlanner"
    probe: bool = True


@dataclass
class LauncherConfig:
    _target_: str = f"{__name__}.AblabLauncher"


class OurSearchPath(SearchPathPlugin):
    """Lets `study=...` find the study files of the repository, and `hydra/sweeper=optuna` be ours."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if not any(path.path == str(conf_folder()) for path in search_path.get_path()):
            return  # of another application
        if (folder := studies_folder()) is not None:
            search_path.append(provider="ablab", path=f"file://{folder}")
        search_path.append(provider="ablab", path=f"file://{Path(__file__).parent / 'sweepers'}")


ConfigStore.instance().store(group="hydra/sweeper", name="ablab", node=SweeperConfig, provider="ablab")
ConfigStore.instance().store(group="hydra/sweeper", name="ablab_plan", node=PlannerConfig, provider="ablab")
ConfigStore.instance().store(group="hydra/launcher", name="ablab", node=LauncherConfig, provider="ablab")
