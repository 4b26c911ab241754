"""The union of intervals, by a clock that the tests turn."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablab.training.traffic.intervals import Intervals, thread_clock


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    spans=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=8),
    window=st.tuples(st.integers(0, 20), st.integers(1, 20)),
    working=st.lists(st.booleans(), min_size=42, max_size=42),
)
def test_the_union_is_that_of_single_ticks(
    spans: list[tuple[int, int]], window: tuple[int, int], working: list[bool]
) -> None:
    """Against a count of the ticks that are in the window and in some interval, and of those that were worked in."""
    clock, computed = Clock(), Clock()
    measured = Intervals(computed, clock)
    opens, closes = window[0], window[0] + window[1]
    for tick in range(42):
        clock.now = tick
        if tick == closes:
            measured.close()
        for start, length in spans:
            if tick == start + length:
                measured.end()
        if tick == opens:
            measured.open()
        for start, _ in spans:
            if tick == start:
                measured.begin()
        computed.now += working[tick]
    covered = {tick for start, length in spans for tick in range(start, start + length)} & set(range(opens, closes))
    assert measured.seconds == len(covered)
    assert measured.computed == sum(working[tick] for tick in covered)


def test_what_was_computed_is_that_between_begin_and_end() -> None:
    clock, computed = Clock(), Clock()
    measured = Intervals(computed, clock)
    measured.open()
    for now, busy, what in ((1, 0.5, measured.begin), (3, 1.5, measured.begin), (4, 2.0, measured.end)):
        clock.now, computed.now = now, busy
        what()
    clock.now, computed.now = 6, 2.5
    measured.end()
    assert (measured.seconds, measured.computed) == (5, 2.0)


def test_what_is_under_way_between_two_windows_counts_in_both_alone() -> None:
    clock = Clock()
    measured = Intervals(None, clock)
    measured.open()
    measured.begin()
    for now, what in ((2, measured.close), (7, measured.open), (8, measured.end), (9, measured.close)):
        clock.now = now
        what()
    assert (measured.seconds, measured.computed) == (3, 0.0)


def test_threads_do_not_disturb_each_other() -> None:
    measured = Intervals(None)
    measured.open()

    def work() -> None:
        for _ in range(500):
            measured.begin()
            measured.end()

    began = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < measured.seconds <= time.perf_counter() - began
    measured.begin()  # nothing of theirs is left under way
    measured.end()
    assert measured._under_way == 0


def test_a_threads_clock_is_read_from_another_one() -> None:
    clock = thread_clock()
    if clock is None:
        pytest.skip("this system has no clock per thread")
    before = clock()
    other = threading.Thread(target=lambda: sum(range(3_000_000)))
    other.start()
    other.join()
    waited = clock()
    sum(range(3_000_000))
    worked = clock()
    assert worked - waited > 2 * (waited - before)
    seen: list[float] = []
    reader = threading.Thread(target=lambda: seen.append(clock()))
    reader.start()
    reader.join()
    assert worked <= seen[0] <= clock()
