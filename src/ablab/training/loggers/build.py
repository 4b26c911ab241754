"""From the config's logger nodes to loggers that run, and their end. Lightning is imported only when one is built."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablab.config import Node
from ablab.config.axes import load
from ablab.errors import UserError
from ablab.results.hparams import final_metrics
from ablab.results.record import Record, Status
from ablab.training.loggers.base import ContinuesCurves, EndsWithStatus, KeepsCurves, RunInfo, ShowsRecord

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


def build_loggers(logger_cfg: Node, run_dir: Path, study: str, variant: str, seed: int, config: Node) -> list[Logger]:
    """The run's loggers: first the learning curves in `run_dir`/metrics.csv, which every run has, then the chosen ones.

    Args:
        logger_cfg: logger name -> node with a `_target_`: a class that takes `run`, a `RunInfo`, beside its own
            settings, or any logger for Lightning, as `others` says.
        config: the resolved config, as plain containers.

    Raises:
        UserError: a logger could not be built or started; those that were started before it are ended.
    """
    from hydra.errors import InstantiationException

    from ablab.training.loggers.csv import CurvesLogger
    from ablab.training.loggers.others import build_logger

    run_dir.mkdir(parents=True, exist_ok=True)
    run = RunInfo(folder=run_dir, study=study, variant=variant, seed=seed, config=config)
    every = config.get("trainer", {}).get("log_every_n_steps")
    loggers: list[Logger] = [CurvesLogger(run_dir, every)]
    for name, node in logger_cfg.items():
        try:
            loggers.append(build_logger(name, node, run))
        except UserError:
            close_loggers(loggers, "failed")
            raise
        except (InstantiationException, TypeError, ValueError, ImportError) as error:
            close_loggers(loggers, "failed")
            reason = " ".join(str(error).split())
            raise UserError(
                f"logger.{name} could not be built ({reason}): mend conf/logger or use logger=csv"
            ) from error
    return loggers


def check_loggers(logger_cfg: Node) -> None:
    """Raises UserError if one of the chosen loggers says, before a run, that it could not start."""
    for node in logger_cfg.values():
        check = getattr(load(node["_target_"]), "check_start", None)
        if check is not None:
            check(node)


def outlive(loggers: list[Logger], notes: list[str]) -> None:
    """Let whatever the loggers raise from now on be noted, and end no run: all but the first, the run's own curves."""
    for logger in loggers[1:]:
        told: set[str] = set()  # one note for each logger and method
        for name in _METHODS:
            if callable(method := getattr(logger, name, None)):
                setattr(logger, name, _outlived(method, f"logger {type(logger).__name__}.{name}", notes, told))


_METHODS = ("log_metrics", "log_hyperparams", "log_graph", "log_picture", "save", "after_save_checkpoint", "finalize")


def _outlived(method: Callable[..., Any], what: str, notes: list[str], told: set[str]) -> Callable[..., Any]:
    from ablab.training.failures import noted

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        mine: list[str] = []
        with noted(what, mine):
            return method(*args, **kwargs)
        notes.extend([] if what in told else mine)
        told.add(what)
        return None

    return call


def continue_loggers(loggers: list[Logger], step: int, own: bool) -> list[str]:
    """Tell the loggers that the run goes on from `step`, 0 where there is no checkpoint; what is to be noted.

    Args:
        own: whether the checkpoint is the run's own, and its curves are there up to it.
    """
    for logger in loggers:
        if isinstance(logger, ContinuesCurves):
            logger.continue_from(step)
    return [line for logger in loggers if isinstance(logger, KeepsCurves) for line in logger.check(step if own else 0)]


def close_loggers(loggers: list[Logger], status: Status, record: Record | None = None) -> None:
    """Show what the run came to and end the loggers, whatever happened: call it in a `finally`.

    Every logger is ended even if it, or one before it, fails to; the first failure is then raised.

    Args:
        status: as in the record.
        record: None where there is none: the loggers were ended before a run began, or without one.
    """
    failures = []
    for logger in loggers:
        for act in (partial(_show, record=record), partial(_end, status=status)):
            try:
                act(logger)
            except Exception as error:  # whatever a logger's service may raise
                failures.append(error)
    if failures:
        raise failures[0]


def _show(logger: Logger, record: Record | None) -> None:
    if record is None:
        return
    if isinstance(logger, ShowsRecord):
        logger.show_record(record)
    elif not isinstance(logger, EndsWithStatus):  # somebody else's
        logger.log_metrics(final_metrics(record), step=record.cost.steps)


def _end(logger: Logger, status: Status) -> None:
    if isinstance(logger, EndsWithStatus):
        logger.close(status)
    else:
        logger.finalize("success" if status == "ok" else "failed")
