"""The number whose measure is nearest to what is wanted is found, however the measure rises, and by few measures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ablab.study.planning.levers import _nearest


class Counted:
    """A measure that rises by each of some steps in turn, and how often it was taken."""

    def __init__(self, base: int, rises: list[int]) -> None:
        self.base, self.rises, self.taken = base, rises, 0

    def __call__(self, number: int) -> int:
        self.taken += 1
        rounds, rest = divmod(number, len(self.rises))
        return self.base + rounds * sum(self.rises) + sum(self.rises[:rest])


@given(
    st.integers(0, 10**9),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
    st.integers(1, 20_000),
    st.integers(0, 10**11),
)
def test_no_other_number_is_nearer(base: int, rises: list[int], highest: int, wanted: int) -> None:
    measure = Counted(base, rises)
    found = _nearest(measure, wanted, highest)
    assert measure.taken <= 8 + highest.bit_length() + 3
    off = abs(measure(found) - wanted)
    assert 1 <= found <= highest
    above = next((n for n in range(found, highest + 1) if measure(n) != measure(found)), highest)
    below = next((n for n in range(found, 0, -1) if measure(n) != measure(found)), 1)
    assert all(abs(measure(n) - wanted) >= off for n in (below, above, 1, highest))


@given(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(1, 2**24), st.integers(1, 2**24))
def test_where_the_measure_rises_evenly_a_few_are_taken(base: int, rise: int, highest: int, number: int) -> None:
    measure = Counted(base, [rise])
    number = min(number, highest)
    assert _nearest(measure, measure(number), highest) == number
    assert measure.taken <= 7


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
    st.integers(1, 20_000),
    st.integers(1, 20_000),
    st.integers(0, 10**11),
)
def test_a_measure_that_is_known_changes_nothing(rises: list[int], highest: int, known: int, wanted: int) -> None:
    measure = Counted(7, rises)
    known = min(known, highest)
    found = _nearest(measure, wanted, highest, {known: measure(known)})
    assert abs(measure(found) - wanted) == abs(measure(_nearest(measure, wanted, highest)) - wanted)
