"""What `from ablab import load` gives: a study compared as DataFrames, or one run with its trained model.

from ablab import load

study = load("outputs/quickstart")           # a folder of runs: `Study`
run = study.run(attention="full", seed=0)    # one of them: `Run`; load() of the run's own folder gives it, too
model = run.model()                          # the trained transformer, as a PyTorch module

Reading records needs no torch, so that models are made by what is imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ablab.analysis.comparison import ComparisonSettings
from ablab.analysis.verdicts import Intervals, Split
from ablab.config import Node
from ablab.config.nearest import nearest
from ablab.errors import UserError
from ablab.report.notebook import LoadedStudy
from ablab.results.collect import Runs
from ablab.results.curves import read_curves
from ablab.results.evaluation import Evaluation
from ablab.results.find import is_one_run
from ablab.results.record import Record
from ablab.results.run_folder import read_config
from ablab.results.store import CONFIG_FILE, EXPORT_FILES, METRICS_FILE, RECORD_FILE, read_evaluations, read_record

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer
    from ablab.tasks.base import Task

Checkpoint = Literal["best", "last"]


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
        baseline: overrides that name it, "attention=full"; default: the study's, else the first variant.
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
        places = [place for place in places if there[place] == str(value)]
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


class Run:
    """One run: what it recorded, and what it learned.

    Args:
        folder: of the run; what is asked for is read when it is asked for.
        record: of the run, where it has been read already.
    """

    def __init__(self, folder: str | PathLike[str], record: Record | None = None) -> None:
        self.folder = Path(folder)
        self._record = record

    @cached_property
    def record(self) -> Record:
        """How it ended: status, metrics, mechanism metrics, costs. Raises UserError of a run that has not ended."""
        path = self.folder / RECORD_FILE
        if self._record is None and self.folder.is_dir() and not path.exists():
            raise UserError(f"{self.folder}: the run has no record: it has not ended, or was killed")
        return self._record or read_record(path)

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation of each split, by name."""
        return dict(self.record.metrics)

    @cached_property
    def config(self) -> Node:
        """All that the run was asked for by, as in its config.yaml: run.config["optimizer"]["lr"]."""
        is_there = (self.folder / CONFIG_FILE).exists()
        return read_config(self.folder).to_dict() if is_there else self.record.config

    @property
    def curves(self) -> pd.DataFrame:
        """The learning curves: a row for each step that was logged, a column for each metric, NaN where it has none."""
        found = read_curves(self.folder / METRICS_FILE, None)
        columns = {name: pd.Series(curve.value, index=curve.step) for name, curve in found.items()}
        return pd.DataFrame(columns).rename_axis("step").sort_index()

    def model(self, checkpoint: Checkpoint = "best", *, device: str = "cpu", trust: bool = False) -> Transformer:
        """The trained model, a PyTorch module in evaluation mode: `model(ids)` gives logits.

        Args:
            checkpoint: of the best evaluation, or the last one.
            trust: components that the run's config names and that are not ablab's may run.

        Raises:
            UserError: there is no such checkpoint, it is damaged, or `trust` is needed.
        """
        return self._restored(checkpoint, device, trust)[0]

    def task(self, checkpoint: Checkpoint = "best", *, trust: bool = False) -> Task:
        """The task, without its data, with the vocabulary that the run had: `encode(text)` and `decode(ids)`.

        Arguments and errors are those of `model`.
        """
        return self._restored(checkpoint, "cpu", trust)[1]

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """What the run was found to be worth elsewhere, by name: `run.evaluations["task.seq_len=1024"].metrics`."""
        return read_evaluations(self.folder, self.record.fingerprint) or dict(self.record.evaluations)

    def evaluate(
        self, *overrides: str, checkpoint: Checkpoint = "best", again: bool = False, trust: bool = False
    ) -> list[Evaluation]:
        """Evaluate the run elsewhere, as `ablab evaluate` does: `run.evaluate("task.seq_len=512,1024")`.

        Arguments and errors are those of `ablab.evaluate`.
        """
        from ablab.study.evaluate import evaluate

        self._refuse_kept()
        return evaluate(self.folder, overrides=overrides, checkpoint=checkpoint, again=again, trust=trust)

    def _refuse_kept(self) -> None:
        if any(place.is_file() for place in self.folder.parents):
            raise UserError(f"{self.folder}: kept results have no checkpoints: use the folder that they were made from")

    def _restored(self, checkpoint: str, device: str, trust: bool) -> tuple[Transformer, Task]:
        from ablab.training.restore import load_run

        self._refuse_kept()
        return load_run(self.folder, checkpoint, trust, device)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


class ExportedModel:
    """A model that `ablab export --format safetensors` wrote.

    Args:
        folder: of the export.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)

    @cached_property
    def config(self) -> Node:
        """All that its run was asked for by. Raises UserError: it is damaged, or an export for another library."""
        from ablab.export.folder import export_config

        return export_config(self.folder).to_dict()

    def model(self, *, device: str = "cpu", trust: bool = False) -> Transformer:
        """The model, a PyTorch module in evaluation mode. Arguments and errors are those of `Run.model`."""
        return self._restored(device, trust)[0]

    def task(self, *, trust: bool = False) -> Task:
        """The task, with its vocabulary, as of `Run.task`."""
        return self._restored("cpu", trust)[1]

    def _restored(self, device: str, trust: bool) -> tuple[Transformer, Task]:
        from ablab.export.folder import read_export

        return read_export(self.folder, trust, device)

    def __repr__(self) -> str:
        return f"ExportedModel({str(self.folder)!r})"
