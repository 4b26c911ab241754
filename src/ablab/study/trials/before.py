"""What a study has tried out before: which of its trials are done with, and what was chosen by them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ablab.results.store import RECORD_FILE
from ablab.study.launch import finished_record
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run
from ablab.study.planning.preflight import Preflight
from ablab.study.trials.carried import carry_tuned, first_size
from ablab.study.trials.pilot import match_time
from ablab.study.trials.search import Search
from ablab.study.trials.tuning import tune

Try = Callable[[list[Run]], object]  # sees trials to their end


class _NotYetError(Exception):
    """Something has to be tried out first."""


def tuned(compose: Composer, timed: Sequence[Run], trials: Try, preflight: Preflight) -> list[Run]:
    """The runs with what is chosen for each variant; of a ladder at its first size, and carried on to the others."""
    return carry_tuned(timed, lambda first: tune(compose, first, trials, preflight.check))


@dataclass(frozen=True)
class Before:
    """What has been tried out for the study in a folder. A trial is done with where its launch would say so."""

    folder: Path
    compose: Composer
    preflight: Preflight
    _ended: dict[str, bool] = field(default_factory=dict, init=False, repr=False)  # asked of twice: by folder

    def has_ended(self, trial: Run) -> bool:
        """Whether a trial is done with, so that the study will use it as it is."""
        name = trial.folder or ""
        if name not in self._ended:
            self._ended[name] = (self.folder / name / RECORD_FILE).is_file() and self._would_be_used(trial)
        return self._ended[name]

    def _would_be_used(self, trial: Run) -> bool:
        config, folder = self.compose(trial)  # takes longer than to see that there is no record
        return finished_record(config, folder, self.preflight, config.execution.retry == "failed") is not None

    def timed(self, runs: Sequence[Run]) -> list[Run]:
        """The runs with the steps that were measured for them, where that has all been done; else as they are."""
        return self._chosen(runs, lambda trials: match_time(self.compose, list(runs), trials))

    def tuned(self, timed: Sequence[Run]) -> list[Run]:
        """The runs with what was tuned for them, where that has all been done; else as they are."""
        return self._chosen(timed, lambda trials: tuned(self.compose, timed, trials, self.preflight))

    def search(self, timed: Sequence[Run]) -> Search:
        """What the variants of these runs are tuned over."""
        return Search(self.compose, first_size(timed), self.preflight.check)

    def _chosen(self, runs: Sequence[Run], choose: Callable[[Try], list[Run]]) -> list[Run]:
        def trials(asked: list[Run]) -> None:
            if not all(map(self.has_ended, asked)):
                raise _NotYetError

        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the study says so itself when it is run
                return choose(trials)
        except _NotYetError:
            return list(runs)
