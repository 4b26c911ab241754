"""One run and what it learned: its record, its curves, its model; and a model that was exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from ablab.config import Node
from ablab.config.compose import importable
from ablab.config.project import module_folders, option_folders
from ablab.errors import UserError
from ablab.results.curves import read_curves
from ablab.results.evaluation import Evaluation
from ablab.results.record import Record
from ablab.results.run_folder import read_config
from ablab.results.store import CONFIG_FILE, METRICS_FILE, RECORD_FILE, read_evaluations, read_record

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer
    from ablab.tasks.base import Task

Checkpoint = Literal["best", "last"]


@contextmanager
def _modules_of_the_users(trusted: bool) -> Iterator[None]:
    """Within it, components of the user's are found where commands find them."""
    with importable(module_folders(option_folders())) if trusted else nullcontext():
        yield


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
        with _modules_of_the_users(trust):
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

        with _modules_of_the_users(trust):
            return read_export(self.folder, trust, device)

    def __repr__(self) -> str:
        return f"ExportedModel({str(self.folder)!r})"
