"""Processes that train replicas of their own and meet every few steps: local SGD and DiLoCo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import StateDict

from ablab.errors import UserError, require_at_least, require_shares
from ablab.training.strategies.replicas import FlatMean, Replicas, assign


class LocalUpdates(Replicas):
    """Post-local SGD (Lin et al. 2020, "Don't Use Large Mini-Batches, Use Local SGD", section 3).

    For the first `warmup_steps` steps gradients are averaged, as in data parallel training. From then on each process
    takes its steps alone, on its share of the batches, and every `period` steps the processes replace their weights by
    the mean over all: 1 / period of the bytes. Moments of the optimizer are each process's own throughout.

    What is evaluated, and written as the weights of a checkpoint, is the mean of the replicas at that moment; the
    replicas go on from where they were, so that evaluating more often changes nothing that is trained. A checkpoint
    therefore also holds each process's weights and optimizer.

    Args:
        processes: at least 2.
        period: steps from one meeting to the next, at least 1. With 1, and an optimizer whose step is linear in the
            gradient, it is data parallel training.
        warmup_steps: at least 0.

    Raises:
        ValueError: a number is out of its range.
    """

    shares_gradients = False
    takes_scaled = False

    def __init__(self, *, processes: int, period: int, warmup_steps: int = 0) -> None:
        require_at_least(1, period=period)
        require_at_least(0, warmup_steps=warmup_steps)
        super().__init__(processes=processes)
        self._period, self._warmup = period, warmup_steps
        self._taken = 0  # steps
        self._meetings = 0
        self._replica: list[Tensor] | None = None  # this process's weights, while the model holds the mean
        self._spread: float | None = None  # distance of this process's weights from the mean, over the mean's norm

    def setup(self, trainer: Trainer) -> None:
        if trainer.state.fn != TrainerFn.FITTING:  # Lightning then gives everyone the first process's weights
            self.model_to_device()  # which training leaves on the CPU at its end, and NCCL sends from GPUs alone
            self._show_mean()
        super().setup(trainer)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        result = super().optimizer_step(optimizer, closure, model, **kwargs)
        self._taken += 1
        since = self._taken - self._warmup
        if since > 0 and since % self._period == 0:
            self.meet()
            self._meetings += 1
        return result

    def sync_gradients(self) -> None:
        if self._taken < self._warmup:
            gradients = [parameter.grad for parameter in self.weights if parameter.grad is not None]
            assign(gradients, FlatMean(gradients).wait())

    def meet(self) -> None:
        """Replace the weights by what all processes agree on."""
        assign(self.weights, FlatMean(self.weights).wait())

    def lightning_module_state_dict(self) -> StateDict:
        self._show_mean()  # also of a checkpoint that no evaluation precedes
        return super().lightning_module_state_dict()

    def on_validation_start(self) -> None:
        self._show_mean()

    def on_test_start(self) -> None:
        self._show_mean()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._show_replica()

    def mechanism(self) -> dict[str, float]:
        metrics = {"steps_alone": float(self._period), "meetings": float(self._meetings)}
        return metrics if self._spread is None else metrics | {"replica_spread": self._spread}

    def notes(self, steps: int) -> list[str]:
        if self._warmup + self._period <= steps:
            return []
        return [f"processes never met: the first meeting is after step {self._warmup + self._period} of {steps}"]

    def shared_state(self) -> StateDict:
        return {"taken": self._taken, "meetings": self._meetings}

    def load_shared_state(self, state: StateDict) -> None:
        self._taken, self._meetings = state["taken"], state["meetings"]

    def own_state(self) -> StateDict:
        weights = self.weights if self._replica is None else self._replica
        return {
            "weights": [tensor.detach() for tensor in weights],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "spread": self._spread,
        }

    def load_own_state(self, states: list[StateDict], rank: int) -> None:
        if len(states) != dist.get_world_size():
            raise UserError(
                f"the checkpoint holds {len(states)} replicas that were apart, and this run has "
                f"{dist.get_world_size()} processes: go on with trainer.devices={len(states)}"
            )
        self._replica = move_data_to_device(states[rank]["weights"], self.root_device)
        self._spread = states[rank].get("spread")  # of before there was one: None
        for optimizer, state in zip(self.optimizers, states[rank]["optimizers"], strict=True):
            optimizer.load_state_dict(state)

    @torch.no_grad()
    def _show_mean(self) -> None:
        if self._replica is not None:  # the model holds it already
            return
        self._replica = [tensor.detach().clone() for tensor in self.weights]
        assign(self.weights, FlatMean(self.weights).wait())
        apart = torch.stack([(a - b).norm() for a, b in zip(self._replica, self.weights, strict=True)]).norm()
        self._spread = float(apart / torch.stack([tensor.norm() for tensor in self.weights]).norm())

    @torch.no_grad()
    def _show_replica(self) -> None:
        if self._replica is not None:
            assign(self.weights, self._replica)
            self._replica = None


class DiLoCo(LocalUpdates):
    """Distributed Low-Communication training (Douillard et al. 2023, DiLoCo, algorithm 1).

    Every `period` steps the way that the mean of the replicas has come since the last meeting is taken for a gradient,
    by which an outer SGD with Nesterov momentum moves the weights of that meeting; all go on from there. The inner
    optimizer is that of the axis `optimizer`, AdamW in the source.

    Args:
        processes, period, warmup_steps: as `LocalUpdates` says; the source has a period of 500 and no warm-up.
        outer_lr: of the outer optimizer, above 0; 0.7 in the source. With 1 and no momentum the weights are the mean.
        outer_momentum: in [0, 1); 0.9 in the source.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self, *, processes: int, period: int, outer_lr: float, outer_momentum: float, warmup_steps: int = 0
    ) -> None:
        if not outer_lr > 0:
            raise ValueError(f"outer_lr={outer_lr} must be above 0")
        require_shares(outer_momentum=outer_momentum)
        super().__init__(processes=processes, period=period, warmup_steps=warmup_steps)
        self._outer_lr, self._outer_momentum = outer_lr, outer_momentum
        self._outer: Optimizer | None = None

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        if self._outer is None and self._taken >= self._warmup:
            self._start_from(self.weights)
        return super().optimizer_step(optimizer, closure, model, **kwargs)

    @torch.no_grad()
    def meet(self) -> None:
        assert self._outer is not None
        anchor = self._anchor
        for held, mean in zip(anchor, FlatMean(self.weights).wait(), strict=True):
            held.grad = held - mean
        self._outer.step()
        self._outer.zero_grad()
        assign(self.weights, anchor)

    def shared_state(self) -> StateDict:
        state = super().shared_state()
        if self._outer is None:
            return state
        return state | {"anchor": [tensor.detach() for tensor in self._anchor], "outer": self._outer.state_dict()}

    def load_shared_state(self, state: StateDict) -> None:
        super().load_shared_state(state)
        if "anchor" in state:
            self._start_from(state["anchor"])
            assert self._outer is not None
            self._outer.load_state_dict(state["outer"])

    def _start_from(self, weights: Sequence[Tensor]) -> None:
        anchor = [tensor.detach().clone().requires_grad_() for tensor in weights]
        momentum = self._outer_momentum
        self._outer = SGD(anchor, lr=self._outer_lr, momentum=momentum, nesterov=momentum > 0)

    @property
    def _anchor(self) -> list[Tensor]:
        assert self._outer is not None
        anchor: list[Tensor] = self._outer.param_groups[0]["params"]
        return anchor
