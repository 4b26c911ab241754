"""Which parameters an optimizer treats alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ablab.config import Node
from ablab.model.position import Position
from ablab.model.protocols import Grouped, StacksMatrices


def build_optimizer(factory: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    """The optimizer over the model's parameters, with weight decay on matrices alone.

    Norms, biases and embeddings are not decayed: shrinking them does not regularise what the model computes, and
    embeddings of rare tokens would fade. A tied embedding counts as an embedding, and so does a table of positions. The
    groups have names: "matrices" (of the blocks), "experts" (stacks of matrices, where there are any), "kernels" (of
    convolutions that say so), "head" (where it is a matrix of its own) and "not_decayed". A component may say of a
    parameter of its own which of these is its place.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding | Position)]
    embeddings = {id(parameter) for table in tables for parameter in table.parameters(recurse=False)}
    stacks = [module for module in model.modules() if isinstance(module, StacksMatrices) and module.stacks_matrices]
    stacked = {id(parameter) for stack in stacks for parameter in stack.parameters(recurse=False)}
    told = dict(_told(model))
    members: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_bias = parameter.dim() < 2 or (id(parameter) in stacked and parameter.dim() < 3)  # or one beside the other
        if id(parameter) in told:
            place = told[id(parameter)]
        elif is_bias or id(parameter) in embeddings:
            place = "not_decayed"
        elif id(parameter) in stacked:
            place = "experts"
        else:
            place = "head" if name == "head.weight" else "matrices"
        members[place].append(parameter)
    groups: list[dict[str, Any]] = [{"params": own, "name": name} for name, own in members.items() if own]
    return factory([group | ({"weight_decay": 0.0} if group["name"] == "not_decayed" else {}) for group in groups])


GROUPS = ("matrices", "experts", "kernels", "head", "not_decayed")


def _told(model: nn.Module) -> Iterator[tuple[int, str]]:
    """The parameters of which components say where they belong, by identity."""
    for module in model.modules():
        if isinstance(module, Grouped):
            own = dict(module.named_parameters(recurse=False))
            yield from ((id(own[name]), place) for name, place in module.parameter_groups.items() if name in own)


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
