"""The axis `logger`: where a run's metrics go while it trains. `csv` always, `tensorboard` and `wandb` where chosen."""

from ablab.training.loggers.base import RunInfo, TakesPictures
from ablab.training.loggers.build import build_loggers, check_loggers, close_loggers, continue_loggers, outlive

__all__ = ["RunInfo", "TakesPictures", "build_loggers", "check_loggers", "close_loggers", "continue_loggers", "outlive"]
