"""What happens to the runs of a study, told to whoever shows it. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ablab.results.record import Record


@dataclass(frozen=True, kw_only=True)
class RunOutline:
    """A planned run in outline, as those need it who only show it."""

    index: int  # its place in the plan, from 0, without gaps
    variant: str  # "" for the only one of a sweep over seeds
    task: str
    seed: int
    steps: int  # that it will train

    @property
    def label(self) -> str:
        return f"{self.variant or 'default'} seed={self.seed}"


@dataclass(frozen=True, kw_only=True)
class Block:
    """The runs up to the next look of a study that makes its seeds in blocks, and what the last look has decided."""

    seeds: int  # of a variant that is undecided, at the next look; where none follows, at the last one
    runs: frozenset[int] = frozenset()  # `RunOutline.index` of those up to the next look; none: all is over
    later: frozenset[int] = frozenset()  # of those that may follow it
    made: int = 0  # runs before
    planned: int  # runs, were all seeds of all variants made
    looked_at: int = 0  # seeds at the last look; 0: none was made
    decided: tuple[tuple[str, str], ...] = ()  # there: the label of each comparison, and how it was decided
    open: tuple[str, ...] = ()  # labels of those that are not

    def sentence(self, to_next: str = "", to_end: str = "") -> str:
        """Say what is decided, what is open, and what it will cost.

        Args:
            to_next, to_end: how long the runs take up to the next look, and at most; "" where that is not known.
        """
        words = [f"after {self.looked_at} seeds: {self._found()}"] if self.looked_at else []
        if not self.runs:
            saved = self.planned - self.made
            return "; ".join([*words, f"{self.made} runs made, {saved} of {self.planned} saved"])
        most = len(self.runs) + len(self.later)
        cost = f"{_plural(len(self.runs), 'run')} to the look at {self.seeds} seeds{_about(to_next)}"
        return "; ".join([*words, cost, f"{most} at most{_about(to_end)}"])

    def _found(self) -> str:
        decided = _few([f"{label} {how}" for label, how in self.decided]) or "nothing new is decided"
        still = "still open" if not self.runs else "open"
        return f"{decided}; {still}: {_few(self.open)}" if self.open else decided


_FEW = 6  # comparisons that are named


def _few(words: Sequence[str]) -> str:
    rest = len(words) - _FEW
    return ", ".join(words) if rest <= 1 else f"{', '.join(words[:_FEW])} and {rest} more"


def _about(time: str) -> str:
    return f" (about {time})" if time else ""


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Observer:
    """Told of everything that happens to the runs of a study, in the supervisor's process and thread. Shows nothing.

    No method may raise or take long. A run is `kept`, or goes through `started`, `progressed` (a few times a second)
    and `ended`; one that crashed and will be tried again is `waiting` in between, and then `started` once more.
    """

    def planned(self, runs: Sequence[RunOutline]) -> None:
        """Once, before anything else."""

    def block(self, block: Block) -> None:
        """Of a study that makes its seeds in blocks: before each of them, and when all is over."""

    def kept(self, run: RunOutline, record: Record) -> None:
        """It had been finished before, or had failed and is not tried again; `record` is the one it left then."""

    def started(self, run: RunOutline, attempt: int) -> None:
        """Its processes are being started; `attempt` counts from 1."""

    def progressed(self, run: RunOutline, step: int, steps: int, shown: str) -> None:
        """It has taken `step` of `steps`; `shown` is a word on its quality, "val_loss 2.3412", or empty."""

    def waiting(self, run: RunOutline, reason: str, seconds: float) -> None:
        """It crashed, and is tried again after so many seconds."""

    def ended(self, run: RunOutline, record: Record, seconds: float) -> None:
        """It has ended, however that was; `seconds` since it was started for the first time by this supervisor."""

    def stopping(self) -> None:
        """The study was asked to stop: running runs save themselves, no other is started."""

    def close(self) -> None:
        """Nothing more will happen. Called exactly once, also after an exception."""
