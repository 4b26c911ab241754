"""What watches one component of one layer."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from torch import Tensor, nn

from ablab.model.ranks import of_all_parts


class Watcher:
    """Knows only what the component says of itself."""

    def __init__(self, axis: str, layer: int, module: nn.Module) -> None:
        self.axis, self.layer, self.module = axis, layer, module

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Called after each forward pass of the component, with its arguments."""

    def figures(self) -> dict[str, float]:
        """Name -> value, for what was seen. Every process of a distributed run must call it."""
        own: Any = getattr(self.module, "mechanism", None)
        return {} if own is None else joined(own())

    def picture(self) -> Tensor | None:
        """What was seen as grey values, uint8 (height, width), if it can be shown so."""
        return None


def joined(figures: dict[str, float]) -> dict[str, float]:
    """What a component says of itself, over the processes among which its heads or units are shared out."""
    each = of_all_parts(figures)
    return {name: joined_values(name, [own[name] for own in each]) for name in figures}


def joined_values(name: str, values: list[float]) -> float:
    """One figure of several layers, or of several parts of one: their mean, or their extreme where it is one."""
    if name.endswith("_min"):
        return min(values)
    return max(values) if name.endswith("_max") else fmean(values)
