"""What single processes have counted, put together."""

from __future__ import annotations

import pytest

from ablab.training.traffic.totals import Totals, summarise


def totals(**changes: object) -> Totals:
    values: dict[str, object] = {
        "counts": {("all-reduce", 2): (20, 800, 800.0)},
        "steps": 10,
        "timed_steps": 8,
        "watched_steps": 4,
        "train_s": 4.0,
        "computing_s": 2.0,
        "communicating_s": 1.6,
        "overlapped_s": 0.4,
        "peak_memory_bytes": 100,
    }
    return Totals(**{**values, **changes})  # type: ignore[arg-type]


def test_figures_are_means_over_processes_and_steps() -> None:
    other = totals(
        counts={("all-reduce", 2): (20, 800, 800.0), ("send", 2): (10, 400, 400.0)},
        communicating_s=2.4,
        overlapped_s=0.6,
        peak_memory_bytes=200,
    )
    found = summarise("gloo", [totals(), other])
    assert found is not None
    assert (found.processes, found.backend, found.steps) == (2, "gloo", 10)
    assert [(one.kind, one.calls_per_step, one.payload_bytes_per_step) for one in found.collectives] == [
        ("all-reduce", 2.0, 80.0),
        ("send", 0.5, 20.0),
    ]
    assert (found.collectives_per_step, found.payload_bytes_per_step, found.sent_bytes_per_step) == (2.5, 100, 100)
    assert found.communication_s_per_step == pytest.approx(2.0 / 4)
    assert found.overlap == pytest.approx(1.0 / 4.0)
    assert [(one.peak_memory_bytes, one.payload_bytes_per_step) for one in found.each] == [(100, 80.0), (200, 120.0)]
    assert (found.each[0].step_s, found.each[0].computing_s_per_step) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("changes", "time", "overlap"),
    [
        ({"communicating_s": None, "overlapped_s": None}, None, None),
        ({"overlapped_s": None}, 0.4, None),
        ({"watched_steps": 0, "communicating_s": 0.0}, None, None),
        ({"communicating_s": 0.0, "overlapped_s": 0.0}, 0.0, None),
    ],
)
def test_what_one_process_does_not_know_is_not_known(
    changes: dict[str, object], time: float | None, overlap: float | None
) -> None:
    found = summarise("gloo", [totals(**changes)])
    assert found is not None
    assert (found.communication_s_per_step, found.overlap) == (time, overlap)
    assert found.sent_bytes_per_step == 80


def test_before_the_first_step_there_is_nothing() -> None:
    assert summarise("gloo", [Totals(), Totals()]) is None
