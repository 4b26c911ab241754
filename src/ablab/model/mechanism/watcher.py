"""What watches one component of one layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Watcher:
    """Knows only what the component says of itself."""

    def __init__(self, axis: str, layer: int, module: nn.Module) -> None:
        self.axis, self.layer, self.module = axis, layer, module

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Called after each forward pass of the component, with its arguments."""

    def figures(self) -> dict[str, float]:
        """Name -> value, for what was seen. Every process of a distributed run must call it."""
        own: Any = getattr(self.module, "mechanism", None)
        return {} if own is None else own()

    def picture(self) -> Tensor | None:
        """What was seen as grey values, uint8 (height, width), if it can be shown so."""
        return None
