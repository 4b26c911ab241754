"""What a run records of the communication between its processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ablab.config import RunConfig
from ablab.results.communication import MEASURED
from ablab.results.store import METRICS_FILE
from ablab.study.supervision.supervisor import supervise
from ablab.training.traffic.callback import is_timed

pytestmark = pytest.mark.usefixtures("_costs_are_known")


@pytest.mark.parametrize("every", [1, 2, 3, 4, 5, 8, 10, 16, 50, 100])
def test_the_stretches_that_are_timed_keep_no_step_with_a_strategy(every: int) -> None:
    """Of the stretches that end a period of whatever length, as many are timed as of all."""
    timed = [is_timed(stretch) for stretch in range(1, 20_001)]
    assert timed[0]
    assert not is_timed(0)
    for phase in range(every):
        of_phase = timed[phase::every]
        assert sum(of_phase) / len(of_phase) == pytest.approx(1 / 8, abs=0.025)


def test_one_process_sends_nothing(finished: Any) -> None:
    assert finished.record.communication is None
    assert not [name for name in finished.record.mechanism if name.startswith("strategy/")]


@pytest.mark.slow
def test_a_run_of_two_processes_records_what_they_sent(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Evaluation, with its sums over processes, logging and checkpoints are left out, and so is the set-up: in a step
    each gradient is sent once, in one piece, in float32."""
    record = supervise(tiny_config("strategy=ddp", "trainer.max_steps=6"), tmp_path, lambda step, steps, shown: None)
    assert record.status == "ok", record.reason
    found = record.communication
    assert found is not None
    assert (found.processes, found.backend, found.steps, found.batch_shares) == (2, "gloo", 6, 2)
    assert record.cost.parameters is not None
    payload = 4 * record.cost.parameters
    [collective] = found.collectives
    assert (collective.kind, collective.group, collective.calls_per_step) == ("all-reduce", 2, 1)
    assert collective.payload_bytes_per_step == collective.sent_bytes_per_step == payload
    for rank in found.each:
        assert rank.payload_bytes_per_step == rank.sent_bytes_per_step == payload
        assert rank.step_s is not None
        assert rank.computing_s_per_step is not None
        assert 0 < rank.computing_s_per_step < rank.step_s
        assert found.communication_s_per_step is not None
        assert rank.peak_memory_bytes > 10_000_000
    assert found.overlap is not None
    assert 0 < found.overlap <= 1
    shown = {name: value for name, value in record.mechanism.items() if name.startswith("strategy/")}
    assert shown == {
        "strategy/collectives_per_step": 1,
        "strategy/payload_bytes_per_step": payload,
        "strategy/sent_bytes_per_step": payload,
        "strategy/communication_s_per_step": found.communication_s_per_step,
        "strategy/overlap": found.overlap,
    }
    curves = pd.read_csv(tmp_path / METRICS_FILE)
    assert set(curves["strategy/sent_bytes_per_step"].dropna()) == {payload}
    assert not set(MEASURED) & set(curves.columns)
