"""Attention within a band around the diagonal, in time and memory that grow as length times width.

A block of consecutive queries sees a stretch of consecutive keys, and with the layout (T, H, D) all blocks and their
stretches are strided views of the same storage: one call of the kernel attends all blocks, without a copy. The band is
the same for every block, so one bias serves all. The backward pass takes blocks of keys, whose queries are a stretch,
so that only the gradient of the queries is a sum of overlapping parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ablab.model.attention.dense import at_once
from ablab.model.attention.kernel import FLOOR, Scale, attend, attend_backward

BLOCK = 32  # queries that share one stretch of keys
BACKWARD_BLOCK = 64  # keys that share one stretch of queries
STEP = 32  # lengths of stretches are multiples of it
# Rows attended by one call, so that what it returns stays in the cache until it is in its place. The backward pass
# returns five times as much.
PIECE = 2048
BACKWARD_PIECE = 512
SLICE = 2**20  # elements of a bias that differs from block to block, so that it stays in the cache


@dataclass(frozen=True, kw_only=True)
class Band:
    """A rule of which keys a query sees by their distance (query minus key) alone: from -ahead to back."""

    back: int
    ahead: int
    own: bool = True  # whether a query sees its own key

    def bias(self, distance: Tensor) -> Tensor:
        """0 where `distance` lies in the band, a floor elsewhere; float32."""
        seen = (distance >= -self.ahead) & (distance <= self.back)
        if not self.own:
            seen &= distance != 0
        return torch.where(seen, 0.0, FLOOR)


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A soft edge: a key at distance x has the weight clamp((ramp + span - x) / ramp, 0, 1) beside its score.

    After Sukhbaatar et al. 2019 (Adaptive Attention Span in Transformers), equation 3.
    """

    spans: Tensor  # (H,) or (T, H), in tokens
    ramp: float

    def bias(self, distance: Tensor, spans: Tensor) -> Tensor:
        """The logarithm of the weights; distance (R, K), spans (..., R or 1) -> (..., R, K)."""
        return self._weight(distance, spans).clamp_(0, 1).log_().clamp_(min=FLOOR)

    def on_ramp(self, distance: Tensor, spans: Tensor) -> Tensor:
        """0 where the weight changes with the span, a floor elsewhere."""
        weight = self._weight(distance, spans)
        return torch.where((weight >= 0) & (weight <= 1), 0.0, FLOOR).to(spans.dtype)

    def _weight(self, distance: Tensor, spans: Tensor) -> Tensor:
        return ((self.ramp + spans).unsqueeze(-1) - distance.abs()) / self.ramp


@dataclass(frozen=True)
class _Segment:
    """Blocks of `rows` rows, each beside a stretch of `columns` columns. From block to block both move by `rows`."""

    row: int  # the first row of the first block
    rows: int
    column: int  # the first column of the first stretch
    columns: int
    blocks: int


def _segments(length: int, block: int, back: int, ahead: int) -> Iterator[_Segment]:
    """Blocks that cover 0..length-1 and stretches that hold, for each row, the columns from -back to +ahead of it.

    The first rows and the last ones have fewer columns than the others and are segments of their own. Stretches are
    lengthened to a multiple of STEP, since odd lengths take up to twice the time.
    """
    spare = -(back + block + ahead) % STEP
    back, ahead = (back + spare, ahead) if back >= ahead else (back, ahead + spare)
    first = min(length, -(-back // block) * block)
    if first:
        yield _Segment(0, first, 0, min(length, first + ahead), 1)
    blocks = max(0, length - ahead - first) // block
    if blocks:
        yield _Segment(first, block, first - back, back + block + ahead, blocks)
    row = first + blocks * block
    if row < length:
        column = max(0, row - back)
        yield _Segment(row, length - row, column, length - column, 1)


def band_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    band: Band,
    scale: Scale,
    padding: Tensor | None = None,
    edge: Edge | None = None,
    slopes: Tensor | None = None,
) -> None:
    """Attention of one sequence, written to `out` and `lse`.

    Args:
        q: (T, H, D), as k; v and out are (T, H, Dv). Any strides.
        lse: (T, H), the log-sum-exp.
        padding: (T,), a floor where there is no token, else 0.
        slopes: (H,), by which scores fall per position of distance.
    """
    for segment in _segments(len(q), BLOCK, band.back, band.ahead):
        queries, keys, values = _rows(q, segment), _columns(k, segment), _columns(v, segment)
        outs, totals = _rows(out, segment), _rows(lse, segment)
        for piece, bias in _pieces(segment, band, padding, edge, slopes, q, rows_are_queries=True):
            mixed, sums = attend(queries[piece], keys[piece], values[piece], bias, scale)
            outs[piece].copy_(mixed)
            totals[piece].copy_(sums)


def band_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    *,
    band: Band,
    scale: Scale,
    padding: Tensor | None = None,
    edge: Edge | None = None,
    slopes: Tensor | None = None,
) -> None:
    """Gradients of one sequence: added to `grad_q`, written to `grad_k` and `grad_v`.

    `out` and `lse` may be those of more keys than the band's.
    """
    for segment in _segments(len(q), BACKWARD_BLOCK, band.ahead, band.back):  # the rows are keys here
        of_queries = [_columns(x, segment) for x in (grad, q, out, lse)]
        of_keys = [_rows(x, segment) for x in (k, v, grad_k, grad_v)]
        # Stretches overlap, but not their parts of one block's length.
        parts = [slice(at, min(at + segment.rows, segment.columns)) for at in range(0, segment.columns, segment.rows)]
        totals = [_view(grad_q, segment.column + part.start, part.stop - part.start, segment) for part in parts]
        for piece, bias in _pieces(segment, band, padding, edge, slopes, q, rows_are_queries=False):
            grads, queries, outs, sums = (x[piece] for x in of_queries)
            keys, values, keys_grad, values_grad = (x[piece] for x in of_keys)
            dq, dk, dv = attend_backward(grads, queries, keys, values, outs, sums, bias, scale)
            keys_grad.copy_(dk)
            values_grad.copy_(dv)
            for part, total in zip(parts, totals, strict=True):
                total[piece].add_(dq[:, :, part])


def span_gradient(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_spans: Tensor,
    *,
    band: Band,
    scale: Scale,
    padding: Tensor | None,
    edge: Edge,
    slopes: Tensor | None = None,
) -> None:
    """Write the gradient of each query's span to `grad_spans` (T, H).

    Of the weights w exp(s) in a softmax, only those on the ramp depend on the span, by 1/ramp each. With O_r and Z_r
    of the attention over the keys on the ramp, each of weight 1, that makes (Z_r / Z) grad . (O_r - O) / ramp.
    """
    for segment in _segments(len(q), BLOCK, band.back, band.ahead):
        queries, outs, totals, grads, found = (_rows(x, segment) for x in (q, out, lse, grad, grad_spans))
        keys, values = _columns(k, segment), _columns(v, segment)
        for piece, bias in _pieces(segment, band, padding, edge, slopes, q, rows_are_queries=True, on_ramp=True):
            mixed, sums = attend(queries[piece], keys[piece], values[piece], bias, scale)
            share = (sums - totals[piece]).exp_().div_(edge.ramp)
            found[piece].copy_(((mixed - outs[piece]) * grads[piece]).sum(-1).mul_(share))


def band_scores(length: int, back: int, ahead: int) -> int:
    """Count the scores that one pass over a sequence computes, hidden ones included."""
    return sum(s.rows * s.columns * s.blocks for s in _segments(length, BLOCK, back, ahead))


def _view(x: Tensor, first: int, length: int, segment: _Segment) -> Tensor:
    """(T, H, ...) -> (blocks, H, length, ...): `length` positions from `first` on, moving with the blocks."""
    T, H, *rest = x.stride()
    shape = (segment.blocks, x.shape[1], length, *x.shape[2:])
    return x.as_strided(shape, (segment.rows * T, H, T, *rest), x.storage_offset() + first * T)


def _rows(x: Tensor, segment: _Segment) -> Tensor:
    return _view(x, segment.row, segment.rows, segment)


def _columns(x: Tensor, segment: _Segment) -> Tensor:
    return _view(x, segment.column, segment.columns, segment)


def _pieces(
    segment: _Segment,
    band: Band,
    padding: Tensor | None,
    edge: Edge | None,
    slopes: Tensor | None,
    like: Tensor,
    *,
    rows_are_queries: bool,
    on_ramp: bool = False,
) -> Iterator[tuple[slice, Tensor]]:
    """The segment's blocks, a few at a time, with their bias.

    That is queries times keys, with (blocks, heads) before where they matter.
    """
    size = max(1, at_once(PIECE if rows_are_queries else BACKWARD_PIECE, like.device) // segment.rows)
    offset = segment.row - segment.column
    small = segment.rows * segment.columns <= SLICE
    band_bias = _remembered_band_bias if small else _band_bias
    bias = band_bias(band, offset, segment.rows, segment.columns, rows_are_queries, like.dtype, like.device)
    spans_by_query, padding_by_key = None, None
    if slopes is not None or edge is not None:
        distance = _distance(offset, segment.rows, segment.columns, rows_are_queries, like.device)
        if slopes is not None:
            bias = (bias - slopes[:, None, None] * distance.abs()).unsqueeze(0)
        if edge is not None:
            soft_bias = edge.on_ramp if on_ramp else edge.bias
            if edge.spans.dim() == 2:
                spans_by_query = (_rows if rows_are_queries else _columns)(edge.spans, segment)
            else:
                bias = bias + soft_bias(distance, edge.spans.unsqueeze(-1)).unsqueeze(0)
    if padding is not None:
        padding_by_key = (_columns if rows_are_queries else _rows)(padding.unsqueeze(-1), segment).unsqueeze(-2)
    if padding_by_key is not None or spans_by_query is not None:
        heads = 1 if edge is None and slopes is None else like.shape[1]
        size = min(size, max(1, at_once(SLICE, like.device) // (heads * segment.rows * segment.columns)))
    for start in range(0, segment.blocks, size):
        piece = slice(start, min(start + size, segment.blocks))
        of_piece = bias
        if spans_by_query is not None:
            of_piece = of_piece + soft_bias(distance, spans_by_query[piece])
        if padding_by_key is not None:
            of_piece = of_piece + padding_by_key[piece]
        yield piece, of_piece


def _distance(offset: int, rows: int, columns: int, rows_are_queries: bool, device: torch.device) -> Tensor:
    """Query minus key, queries times keys, where the first row stands `offset` after the first column."""
    row = torch.arange(offset, offset + rows, device=device)
    column = torch.arange(columns, device=device)
    return row[:, None] - column if rows_are_queries else column[:, None] - row


def _band_bias(
    band: Band, offset: int, rows: int, columns: int, rows_are_queries: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return band.bias(_distance(offset, rows, columns, rows_are_queries, device)).to(dtype)


_remembered_band_bias = lru_cache(maxsize=64)(_band_bias)  # at most 4 MiB each, and mostly far less
