"""No position at all: in a causal model the mask alone tells the order (Haviv et al. 2022)."""

from __future__ import annotations

from ablab.model.position.base import Position
from ablab.model.spec import LayerSpec


class NoPosition(Position):
    """Leaves embeddings, queries and keys as they are."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
