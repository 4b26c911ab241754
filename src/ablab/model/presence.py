"""Where there are tokens in what passes through a model, for those who measure it: padding is no part of any metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablab.model.context import LayerContext

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer


class Presence:
    """Follows the passes of a model, and knows of what is in one where it has tokens.

    A block may be given a part of the stream, such as one modality: within it the mask is that of the part.
    """

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._of_pass: Tensor | None = None
        self._mask: Tensor | None = None

    def attach(self) -> list[RemovableHandle]:
        """Begin to follow; after the watchers, whose hooks on a block still see what the block was given."""
        handles = [self._model.register_context_hook(self._begin)]
        for _, block in self._model.layers():
            handles += [block.register_forward_pre_hook(self._enter), block.register_forward_hook(self._leave)]
        return handles

    def _begin(self, context: LayerContext) -> None:
        self._of_pass = self._mask = context.key_padding_mask

    def _enter(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        self._mask = args[1].key_padding_mask

    def _leave(self, block: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self._mask = self._of_pass

    def missing(self, x: Tensor, *, dim: int = 1) -> Tensor | None:
        """Where x, which has its samples in the first dimension and its positions in `dim`, has padding.

        Returns:
            (B, 1, ..., T) bool, as many dimensions as there are up to `dim`; None: it has a token everywhere, or it is
            no part of the stream that a layer is given.
        """
        mask = self._mask
        if mask is None or x.ndim <= dim or (x.shape[0], x.shape[dim]) != mask.shape:
            return None
        return mask.view(len(mask), *[1] * (dim - 1), -1)


def kept(x: Tensor, missing: Tensor | None) -> tuple[Tensor, Tensor]:
    """x with zeros in place of what is `missing`, and how many of its numbers are not, float64.

    Zeros, and not fewer numbers: sums are made in the order that they have where nothing is missing.
    """
    if missing is None:
        return x, torch.tensor(x.numel(), dtype=torch.float64, device=x.device)
    gone = missing.view(*missing.shape, *[1] * (x.ndim - missing.ndim))
    return x.masked_fill(gone, 0), (~missing).sum(dtype=torch.float64) * (x.numel() // max(1, missing.numel()))
