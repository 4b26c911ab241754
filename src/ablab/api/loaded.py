"""What `from ablab import load` gives: a study compared as DataFrames, or one run with its trained model.

from ablab import load

study = load("outputs/quickstart")           # a folder of runs: `Study`
run = study.run(attention="full", seed=0)    # one of them: `Run`; load() of the run's own folder gives it, too
model = run.model()                          # the trained transformer, as a PyTorch module

Reading records needs no torch, so that models are made by what is imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ablab.analysis.comparison import ComparisonSettings
from ablab.analysis.verdicts import Intervals, Split
from ablab.api.trained import ExportedModel, Run
from ablab.config.nearest import nearest
from ablab.config.overrides import same_value
from ablab.errors import UserError
from ablab.report.notebook import LoadedStudy
from ablab.results.collect import Runs
from ablab.results.find import is_one_run
from ablab.results.store import EXPORT_FILES


def load(
    *folders: str | PathLike[str],
    baseline: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
    last_k: int | None = None,
    split: Split | None = None,
    intervals: Intervals | None = None,
) -> Any:
    """The runs below `folders`, compared as `ablab compare` does; or the run, where the folder is that of one.

    Args:
        baseline: overrides that name it, "attention=full"; "previous": the variant before each in the plan; default:
            the study's, else the first variant.
        metric: what to compare by; default: each task's primary metric.
        margin: effects below it are equivalent, in the metric's unit; default: the one that the study declares.
        last_k: compare the mean of the last k evaluations; default: as the study says, else the last one.
        split: "validation" or "test", of each task's primary metric; default: as the study says, else the one that it
            is of.
        intervals: "single" ones, each of one comparison alone, or "simultaneous" ones, which hold together; default: as
            the study says, else single.

    Returns:
        A `Study`; where nothing is said of a comparison, of the folder of one run a `Run`, and of one that
        `ablab export` wrote an `ExportedModel`. Which of them it is a type checker cannot know: `Study.read`, `Run` and
        `ExportedModel` are the same for who wants it to.

    Raises:
        UserError: no such folder, no runs below it, or they cannot be compared as asked.
    """
    if not folders:
        raise UserError('load() needs the folder of a study or a run, as in load("outputs/quickstart")')
    if "" in folders:
        raise UserError("the name of a folder is empty")  # as a path it would be the working folder
    asked = ComparisonSettings(
        baseline=baseline, metric=metric, margin=margin, last_k=last_k, split=split, intervals=intervals
    )
    if len(folders) == 1 and all(value is None for value in asked.values()):
        path = Path(folders[0])
        if is_one_run(path):
            return Run(path)
        if any((path / name).is_file() for name in EXPORT_FILES):
            return ExportedModel(path)
    return Study.read(
        *folders, baseline=baseline, metric=metric, margin=margin, last_k=last_k, split=split, intervals=intervals
    )


class Study(LoadedStudy):
    """A study, its runs compared, each of which can be asked for."""

    def run(self, choices: Mapping[str, object] | None = None, /, **named: object) -> Run:
        """The one run with these choices: run(attention="full", seed=0), run({"model.d_model": 64}, seed=0).

        Args:
            named: axes, settings that differ, `seed`, `task` or `variant`, each with its value.

        Raises:
            UserError: there is no such run, or there are several.
        """
        runs = self._context.runs
        place = _only_place(runs, {**(choices or {}), **named})
        return Run(runs.paths[place], runs.records[place])


def _only_place(runs: Runs, choices: Mapping[str, object]) -> int:
    places = list(range(len(runs.records)))
    for name, value in choices.items():
        there = {place: _choice(runs, place, name) for place in places}
        places = [place for place in places if same_value(there[place], value)]
        if not places:
            known = list(dict.fromkeys(there.values()))
            raise UserError(f"run(): no run has {name}={value}{nearest(str(value), known)}")
    if len(places) > 1:
        differ = {name: [_choice(runs, place, name) for place in places] for name in ("task", *runs.factors, "seed")}
        name, values = next(((name, each) for name, each in differ.items() if len(set(each)) > 1), ("path", []))
        said = ", ".join(dict.fromkeys(values[:10]))
        raise UserError(f"run(): {len(places)} runs are meant: say which, by {name} ({said})")
    return places[0]


def _choice(runs: Runs, place: int, name: str) -> str:
    """What a run has on an axis, or at a setting, as text."""
    known = ["task", "variant", "seed", *runs.factors]
    if name in known:
        return str(runs.table[name].iloc[place])
    axes = runs.records[place].axes
    if name not in axes:
        raise UserError(f"run(): no run has a {name}{nearest(name, [*known, *axes])}")
    return axes[name]
