"""Learning curves and config in Weights & Biases, offline unless asked otherwise."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ablab.errors import UserError
from ablab.results.record import Status
from ablab.training.loggers.build import EndsWithStatus, RunInfo, TakesPictures

if TYPE_CHECKING:
    import wandb

_LONGEST_TAG = 64  # characters; W&B refuses longer ones
_LONGEST_NAME = 128
_STEP = "trainer/global_step"  # the name by which Lightning logs the step


class RunsLogger(WandbLogger, EndsWithStatus, TakesPictures):
    """One W&B run per run, grouped by variant, begun here and ended by `close`.

    Deviates from Lightning's logger: it starts a run of its own even if another is open (Lightning's joins that one),
    it sets no environment variable for the rest of the process, and it is ended with the true status.

    Args:
        project: W&B project.
        offline: write below the run's folder only; `wandb sync` uploads it later.
        entity: W&B user or team; None for your default one.
        tags: of the run, beside the name of the study.
        pictures: also show attention maps, one per layer and evaluation.

    Raises:
        UserError: W&B could not start.
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

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the run began with its whole config."""

    @rank_zero_only
    def log_picture(self, name: str, picture: Tensor, step: int) -> None:
        self.log_image(name, [picture.numpy()], step)

    @rank_zero_only
    def close(self, status: Status) -> None:
        """End the run: exit code 0 only for status "ok"; the status itself is in its summary."""
        if self._experiment is not None:
            self._experiment.summary["status"] = status
            self._experiment.finish(exit_code=0 if status == "ok" else 1)
            self._experiment = None


def _start(run: RunInfo, project: str, offline: bool, entity: str | None, tags: Sequence[str]) -> wandb.Run:
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"logger.wandb: wandb cannot be imported ({error}): pip install wandb") from error
    try:
        experiment = wandb.init(
            project=project,
            entity=entity,
            dir=run.folder,
            mode="offline" if offline else "online",
            name=f"{run.group[: _LONGEST_NAME - 20]} seed={run.seed}",
            group=run.group[:_LONGEST_NAME],
            job_type="train",
            tags=[tag[:_LONGEST_TAG] for tag in (run.study, *tags) if tag],
            config=run.config,
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"logger.wandb could not start ({reason}): log in with `wandb login`, or set logger.wandb.offline=true"
        ) from error
    experiment.define_metric(_STEP)
    experiment.define_metric("*", step_metric=_STEP, step_sync=True)
    return experiment
