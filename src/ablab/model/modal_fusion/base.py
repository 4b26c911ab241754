"""The contract of modal fusions, and their two kinds of layers: in which modalities meet, or do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ablab.model.block import Block
from ablab.model.context import LayerContext
from ablab.model.draws import branch
from ablab.model.spec import LayerSpec

Weights = Literal["own", "shared"]
Places = Mapping[str, slice]

NOTHING_TO_FUSE = "the task has one modality, so there is nothing to fuse: use modal_fusion=early"


@dataclass(frozen=True)
class Layout:
    """The modalities in their order, each with its number of tokens."""

    lengths: Mapping[str, int]

    @property
    def names(self) -> list[str]:
        return list(self.lengths)

    @property
    def total(self) -> int:
        """Tokens of all modalities together."""
        return sum(self.lengths.values())

    @property
    def places(self) -> dict[str, slice]:
        """The positions of each modality in the stream."""
        found, start = {}, 0
        for name, length in self.lengths.items():
            found[name] = slice(start, start + length)
            start += length
        return found


@dataclass(frozen=True)
class View:
    """The places of modalities in the sequence that a block is being given, and whose queries count."""

    places: Places
    asking: Sequence[str]


class ModalFusion(nn.Module):
    """Decides which modalities meet in which layer. Subclasses implement `layer`.

    Attributes:
        each_block_once: whether a forward pass calls each block exactly once and as a whole.
        needs_several: whether there is nothing for it to do where there is one modality.
        extra: tokens that are added to the stream behind those of the modalities.
        view: of the block that was last called, for those who watch its attention.

    Raises:
        ValueError: there is one modality, and the option needs several.
    """

    each_block_once = False
    extra = 0
    needs_several = True

    def __init__(self, spec: LayerSpec, *, layout: Layout) -> None:
        super().__init__()
        if self.needs_several and len(layout.names) < 2:
            raise ValueError(NOTHING_TO_FUSE)
        self.layout, self.n_layers = layout, spec.n_layers
        self.view: View | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that positions or a block are given."""
        return max(self.layout.total, self.extra + max(self.layout.lengths.values()))

    def has_own_blocks(self, layer: int) -> bool:
        """Whether each modality has a block of its own in that layer, with weights of its own."""
        return False

    def blocks(self, layer: int, make: Callable[[], Block]) -> nn.Module:
        """The block of a layer, or one for each modality by its name."""
        return nn.ModuleDict({name: make() for name in self.layout.names}) if self.has_own_blocks(layer) else make()

    def enter(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what goes into the first layer, given embedded modalities (B, T, d_model) and their mask (B, T)."""
        return x, mask

    def leave(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The modalities (B, T, d_model) and their mask, of what came out of the last layer."""
        return x, mask

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        """One layer: the stream (B, T + extra, d_model), or what the residual has in its place.

        Args:
            blocks: as `blocks` made them.
            context: with the mask of the whole stream, (B, T + extra).
        """
        raise NotImplementedError

    def reach(self, layer: int) -> list[list[float]]:
        """1 where the queries of a modality (row) may see the keys of another (column) in that layer, else 0."""
        raise NotImplementedError

    def together(self, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        """A layer in which everybody sees everybody."""
        self.view = View(self.layout.places, self.layout.names)
        return cast(Tensor, blocks(x, context))

    def apart(self, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        """A layer in which each modality sees itself alone."""
        parts = []
        for name, place in self.layout.places.items():
            self.view = View({name: slice(0, self.layout.lengths[name])}, [name])
            with branch(self, name):  # one block may serve them all
                parts.append(block_of(blocks, name)(x[:, place], masked(context, place)))
        return torch.cat(parts, 1)

    def _everybody(self) -> list[list[float]]:
        return [[1.0] * len(self.layout.names) for _ in self.layout.names]

    def _itself(self) -> list[list[float]]:
        return torch.eye(len(self.layout.names), device="cpu").tolist()


class Towers(ModalFusion):
    """A fusion in some of whose layers the modalities stay apart.

    Args:
        weights: "own": there each modality has blocks of its own; "shared": one block serves all of them in turn, so
            that parameters and initial values are those of early fusion, and only who sees whom differs.
    """

    def __init__(self, spec: LayerSpec, *, layout: Layout, weights: Weights = "own") -> None:
        super().__init__(spec, layout=layout)
        if weights not in ("own", "shared"):
            raise ValueError(f"modal_fusion.weights={weights}: must be own or shared")
        self.weights = weights

    def is_apart(self, layer: int) -> bool:
        """Whether the modalities stay apart in that layer."""
        raise NotImplementedError

    def has_own_blocks(self, layer: int) -> bool:
        return self.weights == "own" and self.is_apart(layer)

    def layer(self, layer: int, blocks: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        return (self.apart if self.is_apart(layer) else self.together)(blocks, x, context)

    def reach(self, layer: int) -> list[list[float]]:
        return self._itself() if self.is_apart(layer) else self._everybody()


def masked(context: LayerContext, *places: slice) -> LayerContext:
    """The context of a sequence made of these places of the whole."""
    mask = context.key_padding_mask
    if mask is None:
        return context
    return replace(context, key_padding_mask=torch.cat([mask[:, place] for place in places], 1))


def block_of(blocks: nn.Module, name: str) -> Block:
    """The block that serves a modality in a layer."""
    block = blocks[name] if isinstance(blocks, nn.ModuleDict) else blocks
    assert isinstance(block, Block)
    return block


def blocks_of(blocks: nn.Module) -> list[Block]:
    """The blocks of a layer."""
    found = list(blocks.values()) if isinstance(blocks, nn.ModuleDict) else [blocks]
    return [block for block in found if isinstance(block, Block)]
