"""A small model for an optimizer to train, its steps, and how two of it are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.optim import Optimizer

from ablab.certify.outcomes import Failed
from ablab.certify.target import Target
from ablab.model.initialisation import keyed_generator
from ablab.training.optimizers.groups import build_optimizer


class OptimizerSubject:
    """An optimizer, and small models for it to train."""

    def __init__(self, target: Target) -> None:
        self.axis, self.config = target.axis, target.config

    @property
    def node(self) -> Any:
        return self.config.options[self.axis.name]

    def optimizer(self, model: nn.Module) -> Any:
        """A new one over the model's parameters, in the groups of a run."""
        factory: Callable[..., Optimizer] = instantiate(self.node, _convert_="all")
        made = build_optimizer(factory, model)
        getattr(made, "train", lambda: None)()
        return made


class Small(nn.Module):
    """A model with what optimizers tell apart: an embedding, matrices, biases and a head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 11, bias=False)
        for name, parameter in self.named_parameters():
            noise = torch.randn(parameter.shape, generator=keyed_generator("small", seed, name))
            parameter.data.copy_(0.3 * noise)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        out: Tensor = self.head(x + self.down(self.up(x).relu()))
        return out


def batch_loss(model: nn.Module, step: int = 0) -> Tensor:
    """The loss of the batch of a step."""
    ids, targets = torch.randint(11, (2, 40), generator=keyed_generator("batch", step))
    return nn.functional.cross_entropy(model(ids), targets)


def train(model: nn.Module, optimizer: Any, steps: range, *, fixed: bool = False) -> list[float]:
    """So many steps, and the loss before each."""
    found = []
    for step in steps:
        value = batch_loss(model, 0 if fixed else step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.item())
    return found


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Its parameters as they are, by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def require_same(one: nn.Module, other: nn.Module, said: str, close: float) -> None:
    """Raises Failed where parameters of two models differ."""
    require_as(copied(one), other, said, close)


def require_as(before: dict[str, Tensor], other: nn.Module, said: str, close: float) -> None:
    """Raises Failed where those of a model are not as before."""
    for name, parameter in other.named_parameters():
        apart = float((before[name] - parameter.detach()).abs().max())
        if not apart <= close * max(1.0, float(before[name].abs().max())) * 10:
            raise Failed(f"{said}, {name} differs by {apart:.1e}")


def near(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    return torch.allclose(one, other, rtol=1e-5, atol=1e-6)
