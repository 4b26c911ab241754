"""Several runs in one process, each in a thread of its own, that take turns and meet for what they do together.

One thread runs at a time, and hands its turn on at a meeting and at its end alone. What a run does by itself (its
evaluations, curves, checkpoints) is thus the code of a run that is alone, and never sees another half-way through.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from torch.optim.optimizer import StateDict

from ablab.training.checkpoints import generators, set_generators

Given = TypeVar("Given")
Got = TypeVar("Got")


class Lockstep(Generic[Given, Got]):
    """Threads that take turns, each by its place.

    Each has the global generators of random numbers to itself: they are put away when its turn ends.

    Args:
        together: of what is given by those that have come to a meeting, by place, makes what each of them gets. It is
            called once all have come that have not ended, in the thread of one of them.
    """

    def __init__(self, together: Callable[[Mapping[int, Given]], Mapping[int, Got]]) -> None:
        self._together = together
        self._turn: dict[int, threading.Semaphore] = {}
        self._ready: deque[int] = deque()  # those that can go on
        self._given: dict[int, Given] = {}  # by those that wait at a meeting
        self._got: dict[int, Got | Exception] = {}

    def run(self, works: Mapping[int, Callable[[], None]]) -> None:
        """Do each of the works in a thread of its own, to the end of all.

        A work may meet the others, and must raise nothing.
        """
        self._turn = {place: threading.Semaphore(0) for place in works}
        self._ready.extend(works)
        threads = [threading.Thread(target=self._live, args=each, daemon=True) for each in works.items()]
        for thread in threads:
            thread.start()
        self._hand_on()
        for thread in threads:
            thread.join()

    def meet(self, place: int, given: Given) -> Got:
        """Wait until all have come that have not ended; what they have made of it together for this place.

        Raises:
            Exception: what doing it together raised, in every thread.
        """
        self._given[place] = given
        kept = generators()
        self._hand_on()
        self._wait_for_turn(place, kept)
        if place not in self._got:
            self._do_together()
        got = self._got.pop(place)
        if isinstance(got, Exception):
            raise got
        return got

    def _live(self, place: int, work: Callable[[], None]) -> None:
        kept = generators()
        self._wait_for_turn(place, kept)
        try:
            work()
        finally:
            self._hand_on()

    def _wait_for_turn(self, place: int, kept: StateDict) -> None:
        self._turn[place].acquire()
        set_generators(kept)

    def _hand_on(self) -> None:
        """Give the turn to one that can go on; where all wait, to the first of them, who sees to the meeting."""
        if self._ready:
            self._turn[self._ready.popleft()].release()
        elif self._given:
            self._turn[min(self._given)].release()

    def _do_together(self) -> None:
        given, self._given = self._given, {}
        first, *others = sorted(given)
        try:
            self._got = dict(self._together(given))
        except Exception as error:
            self._got = dict.fromkeys([first, *others], error)
        self._ready.extend(others)
