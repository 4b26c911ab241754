"""The axis `logger`: where a run's figures go while it trains. `csv` always, `tensorboard` and `wandb` where chosen."""

from ablab.training.loggers.build import RunInfo, build_loggers, close_loggers

__all__ = ["RunInfo", "build_loggers", "close_loggers"]
