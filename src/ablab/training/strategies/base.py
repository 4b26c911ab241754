"""What the training loop asks of a strategy beside what Lightning does."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn


class Parallel:
    """A strategy's part in the training loop. As it is here it does nothing, as for one process.

    Strategies are subclasses of this and of one of Lightning's. `TrainingModule` takes its steps through it.

    Attributes:
        shares_gradients: every process takes each step by the same gradient.
        takes_scaled: gradients may be scaled for float16, by a factor that changes between steps.
    """

    shares_gradients = True
    takes_scaled = True

    def training_model(self, model: nn.Module) -> nn.Module:
        """What is called in place of `model` to train it: the same function, with what spreads its gradient."""
        return model

    def accumulating(self) -> AbstractContextManager[Any]:
        """Around passes whose gradients another pass of the same step adds to: nothing needs to be sent yet."""
        return contextlib.nullcontext()

    def mechanism(self) -> dict[str, float]:
        """What the strategy says of itself, by name."""
        return {}

    def shared_state(self) -> dict[str, Any]:
        """What it remembers that is the same in every process, for a checkpoint. Every process calls it."""
        return {}

    def load_shared_state(self, state: dict[str, Any]) -> None:
        """Go on from `shared_state`."""

    def own_state(self) -> dict[str, Any]:
        """What it remembers that differs between processes, for a checkpoint, on the CPU. Every process calls it."""
        return {}

    def load_own_state(self, states: list[dict[str, Any]], rank: int) -> None:
        """Go on from the `own_state` of each process of the run that wrote the checkpoint.

        Raises:
            UserError: they were another number of processes, and what they remembered cannot be shared out anew.
        """

    def sum_where_sharded(self, squares: Tensor) -> Tensor:
        """Squares summed over what this process holds of the gradient, as the same over the whole of it."""
        return squares


ALONE = Parallel()


def parallel(strategy: Any) -> Parallel:
    """A strategy's part; that of Lightning's own strategies, which do all that they do by themselves, is nothing."""
    return strategy if isinstance(strategy, Parallel) else ALONE
