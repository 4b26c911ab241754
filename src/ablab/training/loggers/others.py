"""Any logger for Lightning by config alone: MLflow's, Aim's, or one of your own.

What differs from run to run is written with names in braces, as in `run_name: "{variant} seed={seed}"`:

* `{study}`, `{variant}`, `{seed}`, `{task}`: of the run
* `{folder}`, `{study_folder}`: of the run and of its study, as absolute paths
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ablab.config import IDENTITY_EXCLUDES, Node
from ablab.config.signature import takes
from ablab.config.targets import missing_package
from ablab.errors import UserError
from ablab.training.loggers.base import RunInfo

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

_PATIENCE_S = 120  # for the other runs of the study that are being begun
_LOCK_FILE = ".loggers.lock"


def build_logger(name: str, node: Node, run: RunInfo) -> Logger:
    """The logger of `node`. One that takes no `run` gets its settings filled in, and logs those of the run at once.

    Raises:
        UserError: such a logger could not be begun, whatever its service raised.
        hydra.errors.InstantiationException, TypeError, ValueError, ImportError: one that takes `run` could not.
    """
    from filelock import FileLock
    from hydra.utils import instantiate

    if takes(f"logger.{name}", node, "run"):
        ours: Logger = instantiate({**node, "_partial_": True})(run=run)
        return ours
    try:
        # Runs that begin side by side would each find no store and no experiment of their study, and make one.
        with FileLock(run.study_folder / _LOCK_FILE, timeout=_PATIENCE_S):
            logger: Logger = instantiate(_fill(node, run), _convert_="all")
            logger.log_hyperparams({key: value for key, value in run.config.items() if key not in IDENTITY_EXCLUDES})
    except Exception as error:  # whatever a logger's service may raise
        package = missing_package(error)
        reason = f"pip install {package}" if package else " ".join(str(error).split())
        raise UserError(f"logger.{name} could not be begun ({reason}): mend that, or use logger=csv") from error
    return logger


def _fill(value: Any, run: RunInfo) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, run) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, run) for item in value]
    if not isinstance(value, str):
        return value
    names = {
        "study": run.study,
        "variant": run.group,
        "seed": run.seed,
        "task": run.task,
        "folder": run.folder.resolve(),
        "study_folder": run.study_folder.resolve(),
    }
    for name, text in names.items():
        value = value.replace(f"{{{name}}}", str(text))
    return value
