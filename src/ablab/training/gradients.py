"""Gradients between the pass back and the step, where mixed precision and shards are not in Lightning's way of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer

from ablab.training.strategies.base import parallel


def parameters_of(optimizer: Optimizer | LightningOptimizer) -> list[Tensor]:
    """What the optimizer works on, which may be shards of the model's parameters."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def unscale(module: LightningModule, optimizer: Optimizer | LightningOptimizer) -> None:
    """Undo the scaling of float16 where Lightning does not: fused optimizers offer to do it in their step.

    Callbacks and clipping come before the step, and see gradients in their own size. The step then finds nothing
    left to undo.
    """
    scaler = getattr(module.trainer.precision_plugin, "scaler", None)
    if scaler is not None and _is_fused(optimizer):
        scaler.unscale_(optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer)


def scale_of(module: LightningModule) -> float:
    """By what losses are multiplied in float16; it gets smaller where gradients were too large, and no step is taken.

    To ask for it means to wait for the device.
    """
    scaler = getattr(module.trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def clip(module: LightningModule, optimizer: Optimizer, most: float, algorithm: str) -> None:
    """Clip as Lightning does, by the norm over all processes where each holds a part of the gradient."""
    strategy = parallel(module.trainer.strategy)
    if not strategy.holds_all and algorithm != "value":
        if most:
            _clip_shards(parameters_of(optimizer), most, strategy.global_norm)
    elif _is_fused(optimizer):  # which mixed precision refuses, not knowing that gradients are unscaled by now
        plugin = module.trainer.precision_plugin
        Precision.clip_gradients(plugin, optimizer, most, GradClipAlgorithmType(algorithm))
    else:
        module.clip_gradients(optimizer, most, algorithm)


@torch.no_grad()
def _clip_shards(parameters: list[Tensor], most: float, global_norm: Callable[[Tensor], Tensor]) -> None:
    """As `torch.nn.utils.clip_grad_norm_`, where each process may hold shards of the gradients only."""
    if all(p.grad is None for p in parameters):  # in no process
        return
    norms = [p.new_zeros(()) if p.grad is None else torch.linalg.vector_norm(p.grad) for p in parameters]
    nn.utils.clip_grads_with_norm_(parameters, most, global_norm(torch.stack(norms)))


@torch.no_grad()
def ratio(before: list[Tensor], after: list[Tensor], global_norm: Callable[[Tensor], Tensor]) -> Tensor:
    """The norm of what a step has moved over that of the weights before it."""
    moved = torch.stack([(new - old).float().norm() for new, old in zip(after, before, strict=True)])
    return global_norm(moved) / global_norm(torch.stack([old.float().norm() for old in before]))


def _is_fused(optimizer: Optimizer | LightningOptimizer) -> bool:
    return bool(getattr(optimizer, "defaults", {}).get("fused"))
