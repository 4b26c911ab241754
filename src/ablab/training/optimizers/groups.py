"""Which parameters an optimizer treats alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ablab.config import Node
from ablab.model.position import Position
from ablab.model.protocols import StacksMatrices


def build_optimizer(factory: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    """The optimizer over the model's parameters, with weight decay on matrices alone.

    Norms, biases and embeddings are not decayed: shrinking them does not regularise what the model computes, and
    embeddings of rare tokens would fade. A tied embedding counts as an embedding, and so does a table of positions. The
    groups have names: "matrices" (of the blocks), "experts" (stacks of matrices, where there are any), "head" (where it
    is a matrix of its own) and "not_decayed".
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding | Position)]
    embeddings = {id(parameter) for table in tables for parameter in table.parameters(recurse=False)}
    stacks = [module for module in model.modules() if isinstance(module, StacksMatrices) and module.stacks_matrices]
    stacked = {id(parameter) for stack in stacks for parameter in stack.parameters(recurse=False)}
    matrices: list[nn.Parameter] = []
    experts: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_bias = parameter.dim() < 2 or (id(parameter) in stacked and parameter.dim() < 3)  # or one beside the other
        if is_bias or id(parameter) in embeddings:
            kept.append(parameter)
        elif id(parameter) in stacked:
            experts.append(parameter)
        else:
            (head if name == "head.weight" else matrices).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "name": "matrices"},
        {"params": experts, "name": "experts"},
        {"params": head, "name": "head"},
        {"params": kept, "name": "not_decayed", "weight_decay": 0.0},
    ]
    return factory([group for group in groups if group["params"]])


def describe_groups(optimizer: Optimizer) -> list[Node]:
    """For the record: of each group its name, how many tensors and numbers it has, and what it was given.

    The learning rate is the one that the schedule's factors multiply.
    """
    return [
        {
            "name": group.get("name", str(index)),
            "tensors": len(group["params"]),
            # Of a piece of a parameter, which says so, the whole parameter counts.
            "parameters": sum(getattr(parameter, "full_numel", parameter.numel()) for parameter in group["params"]),
            "lr": float(group.get("initial_lr", group["lr"])),
            "weight_decay": float(group.get("weight_decay", 0.0)),
            "optimizer": group.get("rule", type(optimizer).__name__),
        }
        for index, group in enumerate(optimizer.param_groups)
    ]
