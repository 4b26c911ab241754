"""What one pass through the model gives to every layer beside the stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ablab.model.attention.cache import Step
    from ablab.model.attention.layer import Rotate


def unrotated(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys as they are."""
    return q, k


@dataclass(frozen=True, kw_only=True)
class LayerContext:
    """The surroundings in which a layer is called.

    A part of a layer that needs something else of the pass gets it through a field more, and no signature changes.

    Attributes:
        rotate: the position's, for queries and keys.
        key_padding_mask: (B, T) bool, true where there is no token; None: there is one everywhere.
        ids: the tokens that went into the model, (B, T) int64; None where it was given something else.
        values: what is made of an attention's values (B, heads, T, size) before it mixes them; None: nothing.
        shared: what a layer leaves to those behind it, by name; empty at the start of each pass.
        step: which tokens of which samples these are, where they go on from what caches keep; None: whole sequences.
    """

    rotate: Rotate = unrotated
    key_padding_mask: Tensor | None = None
    ids: Tensor | None = None
    values: Callable[[Tensor], Tensor] | None = None
    shared: dict[str, Tensor] = field(default_factory=dict)
    step: Step | None = None


def full_precision(device: str) -> contextlib.AbstractContextManager[Any]:
    """Within it nothing is computed in fewer bits than it comes in, autocast or not."""
    available = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else contextlib.nullcontext()
