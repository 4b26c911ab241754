"""How much longer it takes, against sums done by hand."""

from __future__ import annotations

import pytest
from scripted import Clock, ok, plan, unwell

from ablab.report.live import remaining
from ablab.report.live.state import Speed, StudyState
from ablab.study.events import RunOutline


class Course(StudyState):
    """A study in which time passes as told."""

    def __init__(self, runs: list[RunOutline]) -> None:
        self.clock = Clock()
        super().__init__(self.clock)
        self.planned(runs)

    def steps(self, run: RunOutline, first: int, last: int, per_second: float) -> None:
        """It takes the steps from `first` to `last`, and tells of each."""
        for step in range(first, last + 1):
            self.progressed(run, step, run.steps, "")
            self.clock.now += 1 / per_second if step < last else 0


def test_speed_is_that_of_the_last_ten_seconds() -> None:
    speed = Speed()
    for second in range(20):
        speed.add(second, second)  # one step a second
    assert speed.steps_per_second == 1
    for half in range(1, 21):
        speed.add(19 + half / 2, 19 + half)  # then two
    assert speed.steps_per_second == 2


def test_speed_of_steps_that_take_longer_than_its_window() -> None:
    speed = Speed()
    assert speed.steps_per_second is None
    speed.add(0, 1)
    assert speed.steps_per_second is None
    for step in (2, 3, 4):
        speed.add(step * 40, step)
    assert speed.steps_per_second == pytest.approx(1 / 40)


def test_speed_recovers_at_once_from_an_evaluation() -> None:
    speed = Speed()
    for at, step in [(0, 1), (1, 11), (61, 12), (62, 22)]:
        speed.add(at, step)
    assert speed.steps_per_second == 10


def test_nothing_is_known_before_anything_ran() -> None:
    runs = plan(["a=1"])
    course = Course(runs)
    assert remaining.of_study(course) is None
    course.kept(runs[0], ok(runs[0]))  # how long it took is another machine's matter
    course.started(runs[1], 1)
    assert remaining.of_study(course) is None
    assert remaining.of_run(course, course.runs[1]) is None


def test_one_after_the_other() -> None:
    runs = plan(["a=1", "a=2"], range(2))
    course = Course(runs)
    course.started(runs[0], 1)
    course.ended(runs[0], ok(runs[0]), 7.0)
    assert remaining.of_study(course) == pytest.approx(3 * 7)


def test_each_variant_takes_its_own_time_and_an_unknown_one_the_mean_by_steps() -> None:
    runs = [*plan(["slow=1", "fast=1"], range(3)), RunOutline(index=6, variant="new=1", task="text", seed=0, steps=50)]
    course = Course(runs)
    for run, seconds in ((runs[0], 30.0), (runs[3], 10.0)):
        course.started(run, 1)
        course.ended(run, ok(run), seconds)
    # two slow, two fast, and half as many steps at the mean of 0.2 s a step
    assert remaining.of_study(course) == pytest.approx(2 * 30 + 2 * 10 + 50 * 0.2)


def test_a_running_run_counts_with_its_own_speed() -> None:
    runs = plan(["a=1"], range(2))
    course = Course(runs)
    course.started(runs[0], 1)
    course.steps(runs[0], 1, 21, per_second=2)
    assert remaining.of_run(course, course.runs[0]) == pytest.approx(79 / 2)
    assert remaining.of_study(course) == pytest.approx(79 / 2 + 100 / 2)  # and the other one at the same speed
    course.clock.now += 10  # it evaluates, and says nothing
    assert remaining.of_run(course, course.runs[0]) == pytest.approx(79 / 2 - 10)
    course.clock.now += 1000
    assert remaining.of_run(course, course.runs[0]) == 0


def test_places_side_by_side_take_the_queue_in_its_order() -> None:
    runs = plan(["a=1", "b=1"], range(4))
    course = Course(runs)
    course.started(runs[0], 1)
    course.started(runs[4], 1)
    course.ended(runs[0], ok(runs[0]), 10.0)
    course.ended(runs[4], ok(runs[4]), 40.0)
    # on two places, 10 s for an a and 40 s for a b: a1 0-10, a2 0-10, a3 10-20, b1 10-50, b2 20-60, b3 50-90
    assert remaining.of_study(course) == pytest.approx(90)
    course.started(runs[1], 1)
    course.started(runs[2], 1)
    assert remaining.of_study(course) == pytest.approx(90)
    course.clock.now += 4  # both start, and say nothing yet
    assert remaining.of_study(course) == pytest.approx(86)


def test_what_fails_early_tells_of_its_variant_only() -> None:
    runs = plan(["a=1", "bad=1"], range(2))
    course = Course(runs)
    for run, record, seconds in ((runs[2], unwell(runs[2]), 1.0), (runs[0], ok(runs[0]), 20.0)):
        course.started(run, 1)
        course.ended(run, record, seconds)
    assert remaining.of_study(course) == pytest.approx(20 + 1)


def test_an_interrupted_run_tells_nothing() -> None:
    runs = plan(["a=1"], range(2))
    course = Course(runs)
    course.started(runs[0], 1)
    course.ended(runs[0], unwell(runs[0], "interrupted"), 500.0)
    assert remaining.of_study(course) is None


def test_a_resumed_run_is_no_faster_than_others() -> None:
    runs = plan(["a=1"], range(2))
    course = Course(runs)
    course.started(runs[0], 1)
    course.steps(runs[0], 81, 100, per_second=1)  # 80 of its steps were taken before
    course.ended(runs[0], ok(runs[0]), 20.0)
    assert remaining.of_study(course) == pytest.approx(100)


def test_a_run_that_is_tried_again_waits_and_starts_over() -> None:
    runs = plan(["a=1"], range(2))
    course = Course(runs)
    course.started(runs[0], 1)
    course.ended(runs[0], ok(runs[0]), 50.0)
    course.started(runs[1], 1)
    course.steps(runs[1], 1, 60, per_second=2)
    course.waiting(runs[1], 2.0)
    assert remaining.of_study(course) == pytest.approx(52)
    course.clock.now += 2
    course.started(runs[1], 2)
    assert remaining.of_study(course) == pytest.approx(50)
    course.steps(runs[1], 51, 61, per_second=2)  # from its checkpoint
    assert remaining.of_study(course) == pytest.approx(39 / 2)


def test_a_study_that_stops_has_no_time_left() -> None:
    runs = plan(["a=1"], range(2))
    course = Course(runs)
    course.started(runs[0], 1)
    course.ended(runs[0], ok(runs[0]), 50.0)
    course.stopping = True
    assert remaining.of_study(course) is None
