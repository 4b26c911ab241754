"""What the tests of the contract share: the options of the axis, sizes at which they bite, and inputs."""

from __future__ import annotations

import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import Tensor

from ablab.config import conf_folder
from ablab.model.attention.base import AttentionCore

OPTIONS = conf_folder() / "attention"
TARGETS = {path.stem: get_object(OmegaConf.load(path)._target_) for path in sorted(OPTIONS.glob("*.yaml"))}
CORES = sorted(name for name, made in TARGETS.items() if isinstance(made, type) and issubclass(made, AttentionCore))
# So small that they bite at the lengths below; an option takes those that its YAML has.
SMALL = {"window": 5, "bucket_size": 4, "rounds": 2, "ramp": 3.0, "block": 4, "keys": 3, "dense_below": 0}
OWN_SMALL = {"selected": {"keys": 12}}  # whole blocks
LENGTH = 70


def stream(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unrotated(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return q, k


def gradients(out: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out.square().sum(), leaves, allow_unused=True, materialize_grads=True)
