"""What the training loop asks of a strategy beside what Lightning does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from ablab.config.run_config import Compile

Model = TypeVar("Model", bound=nn.Module)


class Parallel:
    """A strategy's part in the training loop. As it is here it does nothing, as for one process.

    Strategies are subclasses of this and of one of Lightning's. `TrainingModule` takes its steps through it.

    Attributes:
        shares_gradients: every process takes each step by the same gradient.
        holds_all: every process has the whole gradient of every parameter when a step is taken.
        takes_scaled: gradients may be scaled for float16, by a factor that changes between steps.
        batch_loss: of the last batch, where `training_step` could not know it yet.
    """

    shares_gradients = True
    holds_all = True
    takes_scaled = True
    batch_loss: Tensor | None = None

    @property
    def remembers(self) -> bool:
        """Whether it has a state in checkpoints, which is of the very parameters that the model has."""
        return any(getattr(type(self), name) is not getattr(Parallel, name) for name in ("shared_state", "own_state"))

    def mechanism(self) -> dict[str, float]:
        """What the strategy says of itself, by name."""
        return {}

    def notes(self, steps: int) -> list[str]:
        """What a reader of the record should know: a line for each thing that the strategy never does in `steps`."""
        return []

    def shared_state(self) -> StateDict:
        """What it remembers that is the same in every process, for a checkpoint. Every process calls it.

        Tensors may be where they are, and are given back where this process computes.
        """
        return {}

    def load_shared_state(self, state: StateDict) -> None:
        """Go on from `shared_state`."""

    def own_state(self) -> StateDict:
        """The same of what differs between processes. Every process calls it."""
        return {}

    def load_own_state(self, states: list[StateDict], rank: int) -> None:
        """Go on from the `own_state` of each process of the run that wrote the checkpoint, on the CPU.

        Raises:
            UserError: they were another number of processes, and what they remembered cannot be shared out anew.
        """

    def dp_size(self, processes: int) -> int:
        """Into how many shares so many processes cut a batch."""
        return processes

    def dp_rank(self, rank: int) -> int:
        """Which of these shares the process of that rank has. Those with the same draw the same random numbers."""
        return rank

    def check_model(self, model: nn.Module) -> None:
        """Whether a model, on the device "meta" or not, can be trained so.

        Raises:
            ClashError: a component cannot; the strategy is the first of the two axes.
            ValueError: a size does not fit.
        """

    def check_batch(self, samples: int) -> None:
        """Whether a share of so many samples of a batch can be trained on so. Raises ValueError if it cannot."""

    def check_compile(self, asked: Compile) -> None:
        """Whether blocks can be compiled so (`trainer.compile`). Raises ValueError if they cannot."""

    def check_optimizer(self, factory: Callable[..., Optimizer]) -> None:
        """Whether an optimizer works so. Raises ClashError if it does not."""

    def parallelize(self, model: nn.Module) -> None:
        """Leave in this process what it is to hold of the model. A second call does nothing."""

    def wrap_optimizer(self, optimizer: Optimizer) -> None:
        """Let an optimizer, which has made no step yet, work on what this process holds of its parameters."""

    def sync_gradients(self) -> None:
        """Give the optimizer the gradients of a step, once all are there."""

    def global_norm(self, norms: Tensor) -> Tensor:
        """Norms (P,) of what this process holds of something of each of the optimizer's parameters, in their order.

        Returns:
            The norm of the whole of it, over all parameters, a scalar. Every process calls it.
        """
        whole: Tensor = torch.linalg.vector_norm(norms)
        return whole

    def unsharded(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Around what asks single components for something, outside of a pass through the model."""
        return contextlib.nullcontext()

    def reshard(self, model: nn.Module) -> None:
        """Before weights are changed otherwise than by a step: nothing may be left of a pass through the model."""

    def full_model(self, model: Model, build: Callable[[], Model]) -> Model:
        """The model in one piece, in every process.

        Args:
            build: makes the same model with other values.
        """
        return model


ALONE = Parallel()


def parallel(strategy: Any) -> Parallel:
    """A strategy's part; that of Lightning's own strategies, which do all that they do by themselves, is nothing."""
    return strategy if isinstance(strategy, Parallel) else ALONE
