"""The axis `logger`: where a run's figures go while it trains, and what TensorBoard is told when it has ended.

`build` starts and ends the loggers of a run: `csv` always, `tensorboard` and `wandb` where they are chosen. `hparams`
needs neither torch nor Lightning, so that whoever supervises runs can write it for one that was killed.
"""

from ablab.results.hparams import write_experiment, write_hparams
from ablab.training.loggers.build import RunInfo, build_loggers, close_loggers

__all__ = ["RunInfo", "build_loggers", "close_loggers", "write_experiment", "write_hparams"]
