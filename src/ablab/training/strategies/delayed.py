"""Gradients that are applied one step late, so that they travel while the next ones are computed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import StateDict

from ablab.training.strategies.replicas import FlatMean, Replicas


class DelayedDataParallel(Replicas):
    """Asynchronous updates with a staleness of exactly one step.

    The gradient g_t of step t, of the weights w_t, is sent off when it is there, and travels during the forward and
    backward passes of step t + 1, after which the mean over the processes is applied:

        w_1 = w_0;   w_{t+1} = w_t - update(mean of g_{t-1})

    Every process applies the same mean, so that replicas stay equal; what is asynchronous is that the gradient belongs
    to the weights of one step ago (Zinkevich et al. 2009, "Slow Learners are Fast", with delay 1; without a parameter
    server, as in Pipe-SGD, Li et al. 2018). The first step applies nothing, and the gradient of the last is never
    applied.

    Args:
        processes: at least 2.

    Raises:
        ValueError: fewer than two processes.
    """

    takes_scaled = False

    def __init__(self, *, processes: int) -> None:
        super().__init__(processes=processes)
        self._travelling: FlatMean | None = None
        self._arrived: list[Tensor] | None = None

    def sync_gradients(self) -> None:
        weights = self.weights
        arrived = self._arrivals()
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
        self._travelling, self._arrived = FlatMean(own), None
        for place, weight in enumerate(weights):
            # In the first step none, and optimizers leave alone what has no gradient.
            weight.grad = None if arrived is None else arrived[place]

    def mechanism(self) -> dict[str, float]:
        return {"staleness": 1.0}

    def shared_state(self) -> StateDict:
        """The mean gradient that has not been applied yet."""
        arrived = self._arrivals()
        return {} if arrived is None else {"arrived": arrived}

    def load_shared_state(self, state: StateDict) -> None:
        self._arrived = state.get("arrived")

    def _arrivals(self) -> list[Tensor] | None:
        if self._travelling is not None:
            self._arrived, self._travelling = self._travelling.wait(), None
        return self._arrived
