"""What runs of this process have counted of their cost: those of one model and task count it once."""

from __future__ import annotations

from ablab.config import RunConfig
from ablab.results.record import Cost
from ablab.training.build import made_of

KNOWN: dict[str, Cost] = {}  # by what a model is made of


def counted(config: RunConfig) -> Cost | None:
    """What a run of the same model has counted; None: there was none."""
    return KNOWN.get(key_of(config))


def key_of(config: RunConfig) -> str:
    return f"{made_of(config)} {config.trainer.accumulate_grad_batches}"
