"""Measures what the processes of a run send to each other in training steps, for its record."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from torch.optim.optimizer import StateDict

from ablab.model.ranks import of_all_ranks
from ablab.results.communication import MEASURED, Communication
from ablab.training.callbacks import ends_step
from ablab.training.peak_memory import peak_memory
from ablab.training.strategies.base import parallel
from ablab.training.traffic.counter import Traffic
from ablab.training.traffic.intervals import thread_clock
from ablab.training.traffic.totals import Totals, summarise

_GOLDEN = (5**0.5 - 1) / 2
_FIGURES = (
    *("collectives_per_step", "payload_bytes_per_step", "sent_bytes_per_step"),
    *("communication_s_per_step", "overlap"),
)


class Communicating(Callback):
    """Counts collectives in training steps. In a run of one process it does nothing.

    It has to come before callbacks whose collectives at the end of a training batch are not to be counted. Times leave
    out the first stretch of steps that a process takes, as those of `CostMeter` do, and are measured on CPUs alone. The
    time in communication is taken of an eighth of the stretches, since it costs some to take (see `is_timed`).

    What is counted goes on from a checkpoint, if as many processes wrote it.

    Args:
        stretch: steps that are timed together, or not.
    """

    def __init__(self, stretch: int = 1) -> None:
        self._stretch = stretch
        self.communication: Communication | None = None  # as of the last evaluation, or of `gather`
        self._traffic: Traffic | None = None
        self._totals = Totals()
        self._clock = thread_clock()  # of the thread that trains
        self._timing = False
        self._begun = 0  # steps, by this process
        self._since = (0.0, 0.0)  # time and processor time at the start of the batch

    def mechanism(self, trainer: Trainer) -> dict[str, float]:
        """What was found, and what the strategy says of itself, by "strategy/name"."""
        values = parallel(trainer.strategy).mechanism()
        if self.communication is not None:
            named = {name: getattr(self.communication, name) for name in _FIGURES}
            values = {name: value for name, value in named.items() if value is not None} | values
        return {f"strategy/{name}": value for name, value in values.items()}

    def gather(self, trainer: Trainer) -> None:
        """Put together what all processes have found. Every process calls it."""
        if self._traffic is not None:
            shares = parallel(trainer.strategy).dp_size(trainer.world_size)
            self.communication = summarise(dist.get_backend(), self._of_all(), shares)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1 and stage == "fit":
            self._timing = trainer.strategy.root_device.type == "cpu"  # elsewhere the thread that trains runs ahead
            traffic = Traffic(self._clock)
            self._traffic = traffic if traffic.install() else None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        if self._traffic is None:
            return
        self._begun += batch_index % trainer.accumulate_grad_batches == 0
        self._since = time.perf_counter(), self._processor_time()
        timed = is_timed(self._number)
        # What was sent in the step before may still be under way.
        watch = timed or is_timed(self._number + 1)
        self._traffic.start(watch=self._timing and watch, time=self._timing and timed)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if self._traffic is None:
            return
        self._traffic.stop()
        ended, totals = ends_step(trainer, batch_index), self._totals
        totals.steps += ended
        if self._timing and self._number > 0:
            since, computed = self._since
            totals.timed_steps += ended
            totals.watched_steps += ended and is_timed(self._number)
            totals.train_s += time.perf_counter() - since
            totals.computing_s = (totals.computing_s or 0.0) + self._processor_time() - computed

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.gather(trainer)
        # Curves are the same however often the run is interrupted.
        if counted := {name: value for name, value in self.mechanism(trainer).items() if name not in MEASURED}:
            for logger in trainer.loggers:
                logger.log_metrics(counted, step=trainer.global_step)

    def state_dict(self) -> StateDict:
        return {"processes": [asdict(one) for one in self._of_all()]} if self._traffic is not None else {}

    def load_state_dict(self, state_dict: StateDict) -> None:
        processes = state_dict["processes"]
        if self._traffic is not None and len(processes) == dist.get_world_size():
            self._totals = Totals(**processes[dist.get_rank()])
            self._traffic.go_on(self._totals.counts, self._totals.communicating_s, self._totals.overlapped_s)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._remove()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._remove()

    @property
    def _number(self) -> int:
        """That of the stretch which is under way, from 0."""
        return (self._begun - 1) // self._stretch

    def _remove(self) -> None:
        if self._traffic is not None:
            self._traffic.remove()

    def _processor_time(self) -> float:
        return 0.0 if self._clock is None else self._clock()

    def _of_all(self) -> list[Totals]:
        return of_all_ranks(self._own())

    def _own(self) -> Totals:
        assert self._traffic is not None
        under_way, timed = self._traffic.under_way, self._traffic.timed
        return replace(
            self._totals,
            counts=dict(self._traffic.counts),
            computing_s=None if self._clock is None else self._totals.computing_s,
            communicating_s=under_way.seconds if timed else None,
            overlapped_s=under_way.computed if timed and self._clock is not None else None,
            peak_memory_bytes=max(self._totals.peak_memory_bytes, peak_memory()[0]),
        )


def is_timed(stretch: int) -> bool:
    """Whether the time in communication is taken of this stretch: of the second, and an eighth of all that follow.

    They are chosen by multiples of the golden ratio, which keep no step with anything: not with a strategy either that
    sends every H steps.
    """
    return stretch > 0 and (stretch - 1) * _GOLDEN % 1 < 1 / 8
