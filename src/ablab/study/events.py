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


class Observer:
    """Told of everything that happens to the runs of a study, in the supervisor's process and thread. Shows nothing.

    No method may raise or take long. A run is `kept`, or goes through `started`, `progressed` (a few times a second)
    and `ended`; one that crashed and will be tried again is `waiting` in between, and then `started` once more.
    """

    def planned(self, runs: Sequence[RunOutline]) -> None:
        """Once, before anything else."""

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
