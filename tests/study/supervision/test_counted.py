"""What a run has counted is known to those of the same model on the same data and of the same code, and no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ablab.config import RunConfig
from ablab.results.record import Cost, Record
from ablab.results.run_context import RunContext
from ablab.study.supervision import code
from ablab.study.supervision.counted import known_cost, remember_cost
from ablab.training.begin import new_record
from ablab.training.build import BuiltRun

TinyConfig = Callable[..., RunConfig]
COUNTED = ("activation=topk", "seed=5")


@pytest.fixture
def record(tiny_config: TinyConfig) -> Record:
    """Of a run that has ended: what it has measured is in it, too."""
    config = tiny_config(*COUNTED)
    built, record = BuiltRun.of(config), new_record(config)
    record.corpus, record.cost = built.task.corpus, built.cost
    record.cost.steps, record.cost.wall_time_s, record.cost.peak_memory_bytes = 4, 1.5, 10**6
    remember_cost(config, record)
    return record


def context(record: Record) -> RunContext:
    assert record.corpus is not None
    return RunContext(corpus=record.corpus.sha256)


def test_what_trains_the_model_makes_no_difference(tiny_config: TinyConfig, record: Record) -> None:
    for other in ("seed=6", "optimizer=lion", "trainer.max_steps=9", "strategy=ddp"):
        known = known_cost(tiny_config(*COUNTED, other), context(record))
        assert known == BuiltRun.of(tiny_config(*COUNTED)).cost
        assert known is not record.cost


@pytest.mark.parametrize(
    "other", ["activation=gelu", "model.n_layers=2", "task.seq_len=64", "trainer.accumulate_grad_batches=2"]
)
def test_another_model_is_not_known(tiny_config: TinyConfig, record: Record, other: str) -> None:
    assert known_cost(tiny_config(*COUNTED, other), context(record)) is None


def test_nor_is_one_on_other_data_or_of_other_code(
    tiny_config: TinyConfig, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(*COUNTED)
    assert known_cost(config, RunContext(corpus="0" * 64)) is None
    assert known_cost(config, RunContext()) is None  # of which nobody has said what its data are
    monkeypatch.setattr(code, "_replaced", code._replaced + 1)
    assert known_cost(config, context(record)) is None


def test_a_run_that_has_counted_nothing_is_not_remembered(tiny_config: TinyConfig, record: Record) -> None:
    config = tiny_config("activation=silu")
    record.cost = Cost()
    remember_cost(config, record)
    assert known_cost(config, context(record)) is None
