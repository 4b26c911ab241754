"""A run in a stack, from its own side: a run as any other, whose passes in training are made together with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ablab.model.transformer import Transformer
from ablab.results.record import Cost
from ablab.tasks.base import Batch
from ablab.training.build import BuiltRun
from ablab.training.module import TrainingModule
from ablab.training.stacked.lockstep import Lockstep
from ablab.training.stacked.model import Passed, Tensors
from ablab.training.stopping import StopRequest

Given = tuple[Transformer, Batch]


@dataclass(frozen=True, kw_only=True)
class Seat:
    """The place of a run in a stack.

    Args:
        place: of so many (`size`), those of runs that had ended before among them.
        stop: whether the process was asked to stop.
        counted: what one of them has counted of its cost, for all that follow; empty until then.
    """

    place: int
    size: int
    lockstep: Lockstep[Given, Passed]
    stop: StopRequest
    counted: list[Cost]

    def build_module(self, built: BuiltRun) -> TrainingModule:
        """As `ablab.training.trainer.build_module`."""
        self.counted[:] = [built.cost.counted()]
        return SeatedModule(self, built)

    def __deepcopy__(self, memo: dict[int, Any]) -> Seat:
        """Itself: callbacks that average weights copy the whole module, and a copy sits in no other place."""
        return self

    def leave_out(self, cost: Cost) -> None:
        """Leave of the measured cost what can be told of one run: its share of the wall time, and no speed."""
        cost.train_time_s = cost.evaluation_time_s = cost.processor_time_s = cost.tokens_per_second = None
        if cost.peak_memory_method is not None:
            cost.peak_memory_method += f", shared by {self.size} seeds"


class SeatedModule(TrainingModule):
    """A TrainingModule whose passes forward and back are made with those of the other seeds."""

    def __init__(self, seat: Seat, built: BuiltRun) -> None:
        super().__init__(built.build_model(), built.task, built.optimizer, built.schedule)
        self._seat = seat
        self._tensors = Tensors(self.model)
        self._passed: Passed | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch, penalties included."""
        self.begin_batch(batch_idx)
        self._passed = self._seat.lockstep.meet(self._seat.place, (self.model, batch))
        self.count_loss(self._passed.loss)
        return self._passed.total

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Give the parameters their gradients, which came with the loss."""
        assert self._passed is not None
        share = 1 / self.trainer.accumulate_grad_batches
        parameters = self._tensors.parameters()
        for name, gradient in self._passed.gradients.items():
            if gradient is None:
                continue
            parameter = parameters[name]
            own = gradient if share == 1 else gradient * share
            parameter.grad = own if parameter.grad is None else parameter.grad + own
        self._passed = None
