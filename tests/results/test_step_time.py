"""The model of a step's time: closed forms, limits, and sums done by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablab.results.communication import Collective, Communication
from ablab.results.step_time import Link, Step, bytes_in_turn, communication_s, messages, on_devices, step, transfer_s
from ablab.training.traffic.counter import OPERATORS

KINDS = sorted({kind.name for kind, _ in OPERATORS.values()})
GIGABIT = Link(125e6, 1e-3)


def collective(kind: str = "all-reduce", group: int = 4, calls: float = 1.0, payload: float = 1e6) -> Collective:
    return Collective(
        kind=kind, group=group, calls_per_step=calls, payload_bytes_per_step=payload, sent_bytes_per_step=0.0
    )


def communication(*collectives: Collective, **changes: Any) -> Communication:
    values: dict[str, Any] = {"processes": 4, "backend": "gloo", "steps": 10, "batch_shares": 4}
    return Communication(collectives=list(collectives), **{**values, **changes})


@pytest.mark.parametrize(
    ("kind", "milliseconds"),
    [  # of a megabyte among four, by links of 125 MB/s and a millisecond
        ("all-reduce", 6 * (1 + 2)),
        ("reduce-scatter", 3 * (1 + 2)),
        ("all-to-all", 3 * (1 + 2)),
        ("all-gather", 3 * (1 + 8)),
        ("broadcast", 2 * (1 + 8)),
        ("reduce", 2 * (1 + 8)),
        ("gather", 2 * 1 + 3 * 8),
        ("scatter", 2 * 1 + 3 * 8),
        ("send", 1 + 8),
    ],
)
def test_a_collective_takes_what_the_sources_say(kind: str, milliseconds: float) -> None:
    assert transfer_s(kind, 4, 1e6, GIGABIT) == pytest.approx(milliseconds / 1e3)


@given(st.integers(2, 40), st.floats(1, 1e9))
def test_a_ring_does_what_its_messages_do_one_after_another(group: int, payload: float) -> None:
    """Every process passes on the n-th part n - 1 times to add up and n - 1 times to tell; of an all-gather a shard."""
    link, seconds = Link(1e6, 0.01), 0.0
    for _ in range(group - 1):
        seconds += link.latency_s + payload / group / link.bytes_per_s
    assert transfer_s("reduce-scatter", group, payload, link) == pytest.approx(seconds)
    assert transfer_s("all-gather", group, payload / group, link) == pytest.approx(seconds)
    assert transfer_s("all-reduce", group, payload, link) == pytest.approx(2 * seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_is_counted_is_known_and_sends_as_much(kind: str) -> None:
    counted = {kind.name: kind for kind, _ in OPERATORS.values()}[kind]
    for group in (2, 3, 8):
        sent = counted.sent(group, 1000)
        # Where one process is the root, the count is a mean over all, and the time is that of the longest way.
        if kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send"):
            assert bytes_in_turn(kind, group, 1000) == pytest.approx(sent)
        else:
            assert bytes_in_turn(kind, group, 1000) >= sent
        assert messages(kind, group) >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_one_device_waits_for_nobody(kind: str) -> None:
    assert transfer_s(kind, 1, 1e9, GIGABIT, calls=100) == 0


def test_another_kind_is_refused() -> None:
    for function in (lambda: messages("gossip", 2), lambda: bytes_in_turn("gossip", 2, 1.0)):
        with pytest.raises(ValueError, match="gossip"):
            function()


@pytest.mark.parametrize("values", [(0.0, 0.0), (-1.0, 0.0), (math.nan, 0.0), (1.0, -1.0), (1.0, math.nan)])
def test_a_link_that_cannot_be_is_refused(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Link(*values)


def test_a_fast_network_leaves_computation_alone() -> None:
    made = step(0.02, [collective(), collective("all-gather", calls=3.5)], 0.0, Link(math.inf))
    assert (made.seconds, made.efficiency) == (0.02, 1.0)


def test_a_step_by_hand() -> None:
    """Two all-reduces of half a megabyte each among four: 2 x 6 ms of latency, 12 ms of bytes."""
    made = step(0.020, [collective(calls=2)], 0.25, GIGABIT)
    assert made.communication_s == pytest.approx(0.024)
    assert (made.longest, made.shortest) == pytest.approx((0.044, 0.024))
    assert made.seconds == pytest.approx(0.038)  # a quarter of 24 ms is hidden
    assert made.efficiency == pytest.approx(20 / 38)


def test_no_more_is_hidden_than_there_is_computation() -> None:
    assert Step(compute_s=1.0, communication_s=10.0, overlap=0.5).seconds == 10.0


@given(st.floats(1e-6, 1), st.floats(0, 1), st.floats(1e3, 1e12), st.floats(0, 1), st.floats(1, 10))
def test_a_worse_network_is_never_faster(compute: float, overlap: float, speed: float, delay: float, by: float) -> None:
    sent = [collective(), collective("all-gather", calls=2), collective("send")]
    base = step(compute, sent, overlap, Link(speed, delay))
    for worse in (Link(speed / by, delay), Link(speed, delay * by)):
        assert step(compute, sent, overlap, worse).seconds >= base.seconds * (1 - 1e-12)
    assert base.shortest * (1 - 1e-12) <= base.seconds <= base.longest


def test_more_devices_change_what_grows_with_them() -> None:
    whole = communication(collective("all-reduce"))
    own = communication(collective("all-gather"))
    sharded = communication(collective("all-gather"), collective("reduce-scatter"))

    def bytes_of(each: Communication, devices: int) -> float:
        on = on_devices(each, devices)
        assert on is not None
        assert {one.group for one in on} == {devices}
        return communication_s(on, Link(1.0))

    assert bytes_of(whole, 1000) == pytest.approx(2e6 * 999 / 1000)  # tends to twice the gradient
    assert bytes_of(own, 1000) == pytest.approx(999e6)  # what each has found, from all others
    assert bytes_of(sharded, 1000) == pytest.approx(999 / 1000 * (4e6 + 1e6))  # 4 MB in all are brought together
    assert on_devices(whole, 4) == whole.collectives


@pytest.mark.parametrize(
    "shared_out",
    [
        communication(collective(), batch_shares=1),  # tensor
        communication(collective(group=2), collective("all-gather", group=2), batch_shares=2),  # hybrid
        communication(collective("send", group=4)),  # pipeline
        communication(collective(), batch_shares=None),  # an older record
    ],
)
def test_where_the_model_is_shared_out_there_is_no_extrapolation(shared_out: Communication) -> None:
    assert on_devices(shared_out, 8) is None
    assert on_devices(shared_out, 4) == shared_out.collectives


def test_calls_may_be_a_mean_over_steps() -> None:
    """One all-reduce every tenth step."""
    every = collective(calls=1.0)
    tenth = dataclasses.replace(every, calls_per_step=0.1, payload_bytes_per_step=every.payload_bytes_per_step / 10)
    assert communication_s([tenth], GIGABIT) == pytest.approx(communication_s([every], GIGABIT) / 10)
