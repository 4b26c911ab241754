"""Attention that picks what it sees at work: whether an indexer finds what its attention would weigh most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ablab.model.attention.compressed_core import CompressedCore
from ablab.model.attention.compressed_layer import CompressedAttention
from ablab.model.attention.dsa import IndexedLayer
from ablab.model.attention.mla_dsa import LatentSparseAttention
from ablab.model.attention.pictures import exact, spread
from ablab.model.attention.selected_core import SelectedCore
from ablab.model.attention.switch_probe import switch_outputs
from ablab.model.context import unrotated
from ablab.model.mechanism import Watcher, answer, drawn, projected
from ablab.model.ranks import sum_over_ranks

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

SEQUENCES, QUERIES = 4, 64  # of the first batch, that are looked at
ANSWERED = 8  # queries that probe outputs are of
TOKENS = 128  # and of a whole layer


class IndexWatcher(Watcher):
    """Asks a core that picks what it sees how good its choice is: the means of what it `compares`, over queries.

    The claim is that an indexer finds what matters most. `index_recall`, the share that it finds, refutes it where it
    is no larger than `index_recall_at_random`. Sequences with padding are passed over.
    """

    core: SelectedCore | CompressedCore

    def __init__(self, axis: str, layer: int, core: SelectedCore | CompressedCore, *, device: torch.device) -> None:
        super().__init__(axis, layer, core)
        self.core = core
        self.sums = torch.zeros(len(core.compares) + 1, dtype=torch.float64, device=device)  # queries last
        self.seen = False

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        if self.seen:
            return
        q, k, _, padding = args
        whole = slice(None) if padding is None else ~padding.any(-1)
        sample = [x[whole][:SEQUENCES] for x in (q, k, *kwargs["index"])]
        self.seen = len(sample[0]) > 0
        with torch.autocast(q.device.type, enabled=False):
            for one in range(len(sample[0])):
                self._look(*(exact(x[one : one + 1]) for x in sample))

    def _look(self, q: Tensor, k: Tensor, *index: Tensor) -> None:
        positions = spread(q.shape[2], QUERIES, q.device)
        found = self.core.compared(q, k, positions, *index)
        queries = self.sums.new_tensor(len(positions))
        self.sums += torch.stack([*(found[name].double().sum() for name in self.core.compares), queries])

    def metrics(self) -> dict[str, float]:
        *sums, queries = sum_over_ranks(self.sums.clone()).tolist()
        return {name: each / queries for name, each in zip(self.core.compares, sums, strict=True)} if queries else {}


class _Asked(nn.Module):
    """The weights that a layer's indexer leads to, for queries and keys that are given."""

    def __init__(self, layer: IndexedLayer, rotate: Any) -> None:
        super().__init__()
        self.core, self.indexer, self.rotate = layer.core, layer.indexer, rotate

    def forward(self, x: Tensor, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        index = () if self.indexer is None else self.indexer(x, self.rotate)
        weights: Tensor = self.core.weights(q, k, positions, *index)
        return weights


def indexed_outputs(model: Transformer, layer: IndexedLayer) -> list[float]:
    """Projections of the weights that a few queries give to all keys, and what acts in training alone."""
    like, core = model.head.weight, layer.core
    shape = 1, model.n_heads, model.max_length, like.shape[1] // model.n_heads
    q, k, x = (
        drawn("queries", shape, like),
        drawn("keys", shape, like),
        drawn("stream", (1, shape[2], like.shape[1]), like),
    )
    positions = torch.linspace(0, model.max_length - 1, ANSWERED, device=like.device).round().long().unique()
    weights = answer(_Asked(layer, model.position.rotate), x, q, k, positions)
    in_training = [core.dropout, core.dropout * (core.dropout_on == "weights")]
    if layer.learning is not None:
        in_training += [layer.learning.weight, layer.learning.warmup_steps]
    return [*projected(weights), *map(float, in_training), *switch_outputs(layer, like)]


def layer_outputs(model: Transformer, layer: CompressedAttention | LatentSparseAttention) -> list[float]:
    """Projections of what the layer makes of a fixed input, and what acts in training alone."""
    like, core = model.head.weight, layer.core
    x = drawn("stream", (1, min(model.max_length, TOKENS), like.shape[1]), like)
    in_training = [core.dropout, core.dropout * (core.dropout_on == "weights")]
    if core.learning is not None:
        in_training += [core.learning.weight, core.learning.warmup_steps]
    return [*projected(answer(_Layer(layer), x)), *map(float, in_training)]


class _Layer(nn.Module):
    """A layer that brings a rotation of its own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.layer(x, unrotated)
        return mixed
