"""Learning curves and config in Weights & Biases, offline unless asked otherwise."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ablab.config import Node
from ablab.config.overrides import BETWEEN_OVERRIDES
from ablab.results.hparams import final_metrics
from ablab.results.record import Record, Status
from ablab.results.wandb_runs import begin, check_key
from ablab.training.loggers.base import EndsWithStatus, RunInfo, ShowsRecord, TakesPictures

if TYPE_CHECKING:
    import wandb

_STEP = "trainer/global_step"  # the name by which Lightning logs the step


class RunsLogger(WandbLogger, EndsWithStatus, ShowsRecord, TakesPictures):
    """One W&B run per run, grouped by variant, begun here and ended by `close`.

    Deviates from Lightning's logger: it starts a run of its own even if another is open (Lightning's joins that one),
    it sets no environment variable for the rest of the process, and it is ended with the true status. A run that goes
    on from its checkpoint goes on with its W&B run.

    Args:
        project: W&B project.
        offline: write below the run's folder only; `ablab sync` uploads it later.
        entity: W&B user or team; None for your default one.
        tags: of the run, beside the study, the task and what the variant overrides.
        pictures: also show attention maps, one per layer and evaluation.

    Raises:
        UserError: W&B could not start, or there is no API key and `offline` is false.
    """

    def __init__(
        self,
        *,
        run: RunInfo,
        project: str = "ablab",
        offline: bool = True,
        entity: str | None = None,
        tags: Sequence[str] = (),
        pictures: bool = True,
    ) -> None:
        experiment = rank_zero_only(_start)(run, project, offline, entity, tags)  # None on other ranks
        super().__init__(project=project, save_dir=run.folder, offline=offline, experiment=experiment)
        self.pictures = pictures
        self._run: wandb.Run | None = experiment  # until it is closed

    @staticmethod
    def check_start(node: Node) -> None:
        """Raises UserError if a logger of these settings could not start."""
        check_key(bool(node.get("offline", True)))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the run began with its whole config."""

    @rank_zero_only
    def log_picture(self, name: str, picture: Tensor, step: int) -> None:
        self.log_image(name, [picture.numpy()], step)

    @rank_zero_only
    def show_record(self, record: Record) -> None:
        """The summary, which is a row of W&B's table of runs, gets the final metrics, the cost and the reason."""
        if self._run is not None:
            self._run.summary.update({**final_metrics(record), "reason": record.reason or ""})

    @rank_zero_only
    def close(self, status: Status) -> None:
        """End the run: exit code 0 only for status "ok"; the status itself is in its summary."""
        if self._run is not None:
            self._run.summary["status"] = status
            self._run.finish(exit_code=0 if status == "ok" else 1)
            self._run = None


def _start(run: RunInfo, project: str, offline: bool, entity: str | None, tags: Sequence[str]) -> wandb.Run:
    experiment = begin(
        run.folder,
        project=project,
        entity=entity,
        offline=offline,
        name=f"{run.group} seed={run.seed}",
        group=run.group,
        job_type="train",
        tags=[run.study, *([f"task={run.task}"] if run.task else []), *BETWEEN_OVERRIDES.split(run.variant), *tags],
        config=run.config,
    )
    experiment.define_metric(_STEP)
    experiment.define_metric("*", step_metric=_STEP, step_sync=True)
    return experiment
