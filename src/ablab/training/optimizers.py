"""The axis `optimizer`: PyTorch's own, over parameters in two groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ablab.model.position.base import Position


def build_optimizer(factory: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    """The optimizer over the model's parameters, with weight decay on matrices alone.

    Norms, biases and embeddings are not decayed: shrinking them does not regularise what the model computes, and
    embeddings of rare tokens would fade. A tied embedding counts as an embedding, and so does a table of positions.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding | Position)]
    embeddings = {id(parameter) for table in tables for parameter in table.parameters(recurse=False)}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            matrix = parameter.dim() >= 2 and id(parameter) not in embeddings
            (decayed if matrix else kept).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "name": "decayed"},
        {"params": kept, "name": "not_decayed", "weight_decay": 0.0},
    ]
    return factory([group for group in groups if group["params"]])
