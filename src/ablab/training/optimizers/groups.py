"""Which parameters an optimizer treats alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ablab.config import Node
from ablab.model.parametrisation import Growth, growths
from ablab.model.position import Position
from ablab.model.protocols import Grouped, StacksMatrices
from ablab.training.optimizers.widths import FACTOR, GROWTH, follow_widths


def build_optimizer(factory: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    """The optimizer over the model's parameters, with weight decay on matrices alone.

    Norms, biases and embeddings are not decayed: shrinking them does not regularise what the model computes, and
    embeddings of rare tokens would fade. A tied embedding counts as an embedding, and so does a table of positions. The
    groups have names: "matrices" (of the blocks), "experts" (stacks of matrices, where there are any), "kernels" (of
    convolutions, and vectors side by side, that say so), "head" (where it is a matrix of its own) and "not_decayed". A
    component may say of a parameter of its own which of these is its place. Where learning rates follow the width of
    the model there are several groups of one name, each with a rate of its own (`ablab.training.optimizers.widths`).
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding | Position)]
    embeddings = {id(parameter) for table in tables for parameter in table.parameters(recurse=False)}
    stacks = [module for module in model.modules() if isinstance(module, StacksMatrices) and module.stacks_matrices]
    stacked = {id(parameter) for stack in stacks for parameter in stack.parameters(recurse=False)}
    told, grown = dict(_told(model)), growths(model)
    members: dict[str, dict[Growth | None, list[nn.Parameter]]] = {name: {} for name in GROUPS}
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
        members[place].setdefault(grown.get(id(parameter)), []).append(parameter)
    groups = [_group(name, growth, own) for name, each in members.items() for growth, own in each.items()]
    optimizer = factory(groups)
    follow_widths(optimizer)
    return optimizer


def _group(name: str, growth: Growth | None, parameters: list[nn.Parameter]) -> dict[str, Any]:
    group: dict[str, Any] = {"params": parameters, "name": name}
    if name == "not_decayed":
        group["weight_decay"] = 0.0
    return group if growth is None else group | {GROWTH: astuple(growth)}


def base_rate(groups: Sequence[dict[str, Any]]) -> float:
    """The learning rate at the moment, of which each group of an optimizer may have a part, by the width."""
    group = groups[0]
    return float(group["lr"]) / float(group.get(FACTOR, 1.0))


GROUPS = ("matrices", "experts", "kernels", "head", "not_decayed")


def _told(model: nn.Module) -> Iterator[tuple[int, str]]:
    """The parameters of which components say where they belong, by identity."""
    for module in model.modules():
        if isinstance(module, Grouped):
            own = dict(module.named_parameters(recurse=False))
            yield from ((id(own[name]), place) for name, place in module.parameter_groups.items() if name in own)


def describe_groups(optimizer: Optimizer) -> list[Node]:
    """For the record: of each group its name, how many tensors and numbers it has, and what it was given.

    The learning rate is the one that the schedule's factors multiply: the top one, of `one_cycle`, which keeps by
    `initial_lr` what it starts with.
    """
    return [
        {
            "name": group.get("name", str(index)),
            "tensors": len(group["params"]),
            # Of a piece of a parameter, which says so, the whole parameter counts.
            "parameters": sum(getattr(parameter, "full_numel", parameter.numel()) for parameter in group["params"]),
            "lr": float(group.get("max_lr", group.get("initial_lr", group["lr"]))),
            "weight_decay": float(group.get("weight_decay", 0.0)),
            "optimizer": group.get("rule", type(optimizer).__name__),
        }
        for index, group in enumerate(optimizer.param_groups)
    ]
