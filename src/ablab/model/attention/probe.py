"""The axis `attention` at work: the keys that a core looks at, what it misses of full attention, and pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ablab.model.attention.base import AttentionCore, scores_of, self_only_if_alone
from ablab.model.attention.compressed_core import CompressedCore
from ablab.model.attention.compressed_layer import CompressedAttention
from ablab.model.attention.dsa import IndexedLayer
from ablab.model.attention.index_probe import IndexWatcher, indexed_outputs, layer_outputs
from ablab.model.attention.layer import MultiHeadAttention
from ablab.model.attention.linear import LinearAttention
from ablab.model.attention.mla_dsa import LatentSparseAttention
from ablab.model.attention.pictures import columns_of, exact, picture, spread
from ablab.model.attention.recurrence import Recurrence
from ablab.model.attention.recurrence_probe import RecurrenceWatcher
from ablab.model.attention.selected_core import SelectedCore
from ablab.model.attention.switch_probe import switch_outputs, watch_switches
from ablab.model.mechanism import Watcher, answer, drawn, place_of, projected
from ablab.model.protocols import Penalised, TellsVisited, TellsWeights
from ablab.model.ranks import cat_over_tp_ranks, sum_over_ranks

if TYPE_CHECKING:
    from ablab.model.transformer import Transformer

Asked = Callable[..., Tensor]

SAMPLED_SEQUENCES = 4
SAMPLED_QUERIES = 64
PICTURED_QUERIES = 256
ASKED_TOKENS = 128
QUERIES = 8  # of the longest sequence, the last one among them, that probe outputs are of


class AttentionWatcher(Watcher):
    """Looks at a few queries of the first batch only: full attention's weights are what other cores avoid computing.

    It needs a core that is called as `AttentionCore.forward` is and offers `visited`, `weights` or both. Sequences with
    padding are passed over, since the two are defined without.

    Args:
        pictured: also keep a picture of the first sequence's attention weights.
    """

    def __init__(
        self, axis: str, layer: int, module: nn.Module, *, device: torch.device, causal: bool, pictured: bool = False
    ) -> None:
        super().__init__(axis, layer, module)
        self.visited, self.weights = _told(module)
        self.causal, self.share_qk = causal, isinstance(module, AttentionCore) and module.share_qk
        self.pictured = pictured
        self.seen = False
        # Keys visited, mass captured, queries; distance, weight; mass on sinks, capped scores.
        self.sums = torch.zeros(7, device=device)
        self.softcap = module.softcap if isinstance(module, AttentionCore) else None
        # What a compressed core's tokens leave is also that of its entries: it tells of its sinks by itself.
        sums_up = isinstance(module, AttentionCore) and not isinstance(module, CompressedCore)
        self.has_sinks = sums_up and module.sinks is not None
        self.drawn: Tensor | None = None

    @torch.no_grad()
    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        if self.seen or (self.visited is None and self.weights is None):
            return
        sample = _unpadded(args, kwargs)
        if sample is None:
            return
        self.seen = True
        with torch.autocast(sample[0].device.type, enabled=False):  # the measure's own rounding is not to be measured
            sample = [exact(x[:SAMPLED_SEQUENCES]) for x in sample]
            positions = spread(sample[0].shape[2], SAMPLED_QUERIES, sample[0].device)
            for one in range(len(sample[0])):  # one by one: the dense weights of all would be a peak of memory
                self.sums += self._measure(positions, *(x[one : one + 1] for x in sample))
            if self.pictured and self.weights is not None:
                self.drawn = self._picture(self.weights, *(x[:1] for x in sample))

    def _measure(self, positions: Tensor, q: Tensor, k: Tensor, *index: Tensor) -> Tensor:
        """The sums over the queries of one sequence."""
        sums = self.sums.new_zeros(len(self.sums))
        if self.visited is not None:
            full = self._full(q, k, positions)
            mask = self.visited(q, k, positions, *index).expand(full.shape)
            sums[:3] = torch.stack([mask.sum(), (full * mask).sum(), full.new_tensor(full[..., 0].numel())])
            if isinstance(self.module, AttentionCore) and self.softcap is not None:
                sums[6] = (mask & (self.module.scores(q, k, positions).abs() >= self.softcap)).sum()
        if self.weights is not None:
            weights = self.weights(q, k, positions, *index)
            keys = torch.arange(weights.shape[-1], device=weights.device)
            distance = (positions[:, None] - keys).abs()
            sums[3:5] = torch.stack([(weights * distance).sum(), weights.sum()])
            if self.has_sinks:
                sums[5] = (1 - weights.sum(-1)).sum()
        return sums

    def _picture(self, weights: Asked, q: Tensor, k: Tensor, *index: Tensor) -> Tensor:
        positions = spread(q.shape[2], PICTURED_QUERIES, q.device)
        slices = [columns_of(weights(q, k, some, *index)[0]) for some in positions.split(SAMPLED_QUERIES)]
        return picture(cat_over_tp_ranks(torch.cat(slices, dim=1), 0)).cpu()

    def _full(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        """The weights that full attention would give to the same queries and keys, sinks aside.

        With the core's bound of scores, and its bias by distance.
        """
        keys = torch.arange(k.shape[2], device=q.device)
        allowed = keys <= positions[:, None] if self.causal else torch.ones_like(keys <= positions[:, None])
        if self.share_qk:  # as full attention has it then, or a query's own key would hold most of the mass
            allowed = self_only_if_alone(allowed, positions)
        slopes = self.module.slopes if isinstance(self.module, AttentionCore) else None
        scores = scores_of(q, k, positions, slopes, self.softcap)
        return scores.masked_fill(~allowed, -math.inf).softmax(-1)

    def metrics(self) -> dict[str, float]:
        metrics = super().metrics()
        if self.visited is None and self.weights is None:
            return metrics
        # Summed even by a process that saw nothing: the others wait for it.
        keys, mass, queries, distance, weight, sunk, capped = sum_over_ranks(self.sums.clone()).tolist()
        if queries:
            metrics |= {"keys_visited": keys / queries, "mass_captured": mass / queries}
        if weight:
            metrics["effective_context"] = distance / weight
        if self.has_sinks and queries:
            metrics["sink_share"] = sunk / queries
        if self.softcap is not None and keys:
            metrics["capped_share"] = capped / keys
        return metrics

    def picture(self) -> Tensor | None:
        return self.drawn


def _unpadded(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor] | None:
    """Queries (B, H, T, D), keys (B, K, T, D) and what there is of an index, of the sequences without padding.

    None if these are no such call.
    """
    given = {**dict(zip(("q", "k", "v", "key_padding_mask"), args, strict=False)), **kwargs}
    q, k, padding = (given.get(name) for name in ("q", "k", "key_padding_mask"))
    if not (isinstance(q, Tensor) and isinstance(k, Tensor) and _belong_together(q, k)):
        return None
    sample = [q, k, *given.get("index", ())]
    if padding is not None:
        whole = ~padding.any(-1)
        sample = [x[whole] for x in sample]
    return sample if len(sample[0]) else None


def _belong_together(q: Tensor, k: Tensor) -> bool:
    if not q.ndim == k.ndim == 4:
        return False
    return (q.shape[0], *q.shape[2:]) == (k.shape[0], *k.shape[2:]) and q.shape[1] % k.shape[1] == 0


def _told(core: nn.Module) -> tuple[Asked | None, Asked | None]:
    """The core's `visited` and `weights`, None where it has none: the base class's own tell nothing by themselves."""
    if not isinstance(core, AttentionCore):
        return (
            core.visited if isinstance(core, TellsVisited) else None,
            core.weights if isinstance(core, TellsWeights) else None,
        )
    described = type(core).visited is not AttentionCore.visited
    weighs = described or type(core).weights is not AttentionCore.weights
    return (core.visited if described else None), (core.weights if weighs else None)


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """Every layer's attention, and its core."""
    for layer, block in model.layers():
        yield Watcher("attention", layer, block.attention)
        yield from watch_switches(layer, block.attention, model.head.weight.device)
        core, device = block.attention.core, model.head.weight.device
        if isinstance(core, Recurrence):
            yield RecurrenceWatcher("attention", layer, core, heads=model.n_heads, device=device, pictured=pictured)
        else:
            yield AttentionWatcher("attention", layer, core, device=device, causal=model.causal, pictured=pictured)
        if isinstance(core, SelectedCore | CompressedCore):
            yield IndexWatcher("attention", layer, core, device=device)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """For each layer, projections of the weights that a few queries give to all keys, and what acts in training alone.

    Linear attention has no weights, and is asked as a whole. Softmax attention that projects its inputs in a way of its
    own (latent attention, say) has none.
    """
    found = {}
    for place, (layer, block) in enumerate(model.layers()):
        if isinstance(block.attention, IndexedLayer):
            found[place_of(layer, place)] = indexed_outputs(model, block.attention)
        elif isinstance(block.attention, CompressedAttention | LatentSparseAttention):
            found[place_of(layer, place)] = layer_outputs(model, block.attention)
        elif isinstance(block.attention, MultiHeadAttention):
            own = switch_outputs(block.attention, model.head.weight)
            found[place_of(layer, place)] = _core_outputs(model, block.attention.core) + own
        elif isinstance(block.attention, LinearAttention):
            found[place_of(layer, place)] = _layer_outputs(model, block.attention)
    return found


class _Asked(nn.Module):
    """A core that is asked for its weights where others are called."""

    def __init__(self, core: AttentionCore) -> None:
        super().__init__()
        self.core = core

    def forward(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        return self.core.weights(q, k, positions)


def _core_outputs(model: Transformer, core: AttentionCore) -> list[float]:
    heads, like = model.n_heads, model.head.weight
    shape = 1, heads, model.max_length, like.shape[1] // heads
    q, k = drawn("queries", shape, like), drawn("keys", shape, like)
    positions = torch.linspace(0, model.max_length - 1, QUERIES, device=like.device).round().long().unique()
    # Sinks differ between runs as all that is trained does, and others stand in for them.
    weights = core.weights(q, k, positions) if core.sinks is None else answer(_Asked(core), q, k, positions)
    weights = weights.expand(1, heads, len(positions), model.max_length)
    in_training = [core.dropout, core.dropout * (core.dropout_on == "weights")]  # what evaluation does not show
    if isinstance(core, Penalised):
        in_training.append(float(core.penalty()))
    return [*projected(weights), *in_training]


def _layer_outputs(model: Transformer, layer: LinearAttention) -> list[float]:
    like = model.head.weight
    x = drawn("stream", (1, min(model.max_length, ASKED_TOKENS), like.shape[1]), like)
    return [*projected(answer(layer, x, None)), layer.dropout]  # it leaves the rotation, None, aside
