"""A variant in a search: its runs, its trials, and the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ablab.errors import UserError
from ablab.results.record import Metric
from ablab.results.run_context import RunContext
from ablab.study.planning.expand import Run, folder_name
from ablab.study.trials.trial import first_of_each

if TYPE_CHECKING:
    import optuna


class Best(NamedTuple):
    """The best trial of a variant."""

    number: int
    overrides: dict[str, str]
    params: dict[str, Any]  # what Optuna asked for
    value: str  # "val_loss 2.6412", the mean over the seeds


@dataclass(kw_only=True)
class Searched:
    """A variant and its trials."""

    label: str  # "" for the only one
    runs: list[Run]  # one for each seed, without what is searched
    study: optuna.Study
    asked: list[dict[str, str]] = field(default_factory=list)  # overrides of each trial
    told: int = 0  # trials that Optuna knows the end of
    primary: Metric | None = None  # that trials are judged by; None: none has ended well

    @property
    def best(self) -> Best | None:
        """None where no trial has ended well."""
        from optuna.trial import TrialState

        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done or self.primary is None:
            return None
        trial = min(done, key=lambda each: (each.value, each.number))
        value = (trial.value or 0.0) * (-1 if self.primary.direction == "max" else 1)
        return Best(trial.number, self.asked[trial.number], trial.params, f"{self.primary.name} {value:.4f}")


def variants_of(runs: Sequence[Run], sampler: Callable[[], optuna.samplers.BaseSampler]) -> list[Searched]:
    """The variants of a plan. Raises UserError where they are of several tasks."""
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


def trial_of(run: Run, number: int, settings: dict[str, str]) -> Run:
    """The run with what a trial tries, in a folder of the trial's."""
    *above, seed = (run.folder or "").split("/")
    return replace(
        run,
        overrides=[*run.overrides, *(f"{key}={value}" for key, value in settings.items())],
        context=RunContext(variant=label_of(run.variant, number)),
        folder="/".join([*above, folder_name(f"trial={number}"), seed]),
    )


def label_of(variant: str, number: int) -> str:
    """How a trial is called on the screen."""
    return f"{variant},trial={number}" if variant else f"trial={number}"
