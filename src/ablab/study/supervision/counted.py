"""What runs have counted of the cost of their models, for those of the same model that follow: with other seeds, say.

Counting takes as long as some dozen steps, and for a large or an unusual model seconds.
"""

from __future__ import annotations

from ablab.config import RunConfig
from ablab.results.record import Cost, Record
from ablab.results.run_context import RunContext
from ablab.study.supervision.code import generation
from ablab.training.build import made_of

_Key = tuple[int, str, str | None, int]
_COUNTED: dict[_Key, Cost] = {}


def known_cost(config: RunConfig, context: RunContext) -> Cost | None:
    """Return what an earlier run has counted; None where there was none of the same model on the same data.

    A run outside of a study is not told which data those are.
    """
    return _COUNTED.get(_key(config, context.corpus)) if context.corpus else None


def remember_cost(config: RunConfig, record: Record) -> None:
    """Keep what the run has counted, for those that are started from now on."""
    if record.corpus is not None and record.cost.parameters is not None:
        _COUNTED[_key(config, record.corpus.sha256)] = record.cost.counted()


def _key(config: RunConfig, corpus: str | None) -> _Key:
    return generation(), made_of(config), corpus, config.trainer.accumulate_grad_batches
