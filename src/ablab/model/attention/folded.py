"""Attention of several models at once, below `torch.func.vmap`: their seeds are folded into the batch, or the heads.

PyTorch has no batched form of its fused attention on a CPU, and knows nothing of `ablab::sparse_attention`. Attention
treats each sample and each head by itself, so that seeds beside each other are more samples, or more heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ablab.model.attention.operators import OPERATOR

_Dims = Sequence[int | None]


class FoldedSeeds(TorchFunctionMode):
    """Within it, `scaled_dot_product_attention` of anybody may be called below `vmap`, and takes one call for all."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            return _Fused.apply(*_arguments(*args, **(kwargs or {})))  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def _arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Any, ...]:
    if dropout_p:
        raise RuntimeError("scaled_dot_product_attention: dropout draws for all seeds at once")
    return query, key, value, attn_mask, is_causal, scale, enable_gqa


class _Fused(torch.autograd.Function):
    """PyTorch's attention below `vmap`. Autograd sees what it calls there, so that it has no pass back of its own."""

    generate_vmap_rule = False

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None, grouped: bool
    ) -> Tensor:
        return _attend(q, k, v, mask, causal, scale, grouped)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: _Dims, *args: Any) -> tuple[Tensor, int]:
        seeds = info.batch_size
        q, k, v = (_first(x, dim, seeds) for x, dim in zip(args[:3], in_dims[:3], strict=True))
        mask = None if args[3] is None else _mask(args[3], in_dims[3], seeds, q)
        q, k, v = (x.flatten(0, x.dim() - 4) for x in (q, k, v))
        out = _attend(q, k, v, mask, *args[4:])
        return out.unflatten(0, (seeds, -1)), 0


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None, grouped: bool
) -> Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped)


def _first(x: Tensor, dim: int | None, seeds: int) -> Tensor:
    """With the seeds in front."""
    return x.expand(seeds, *x.shape) if dim is None else x.movedim(dim, 0)


def _mask(mask: Tensor, dim: int | None, seeds: int, q: Tensor) -> Tensor:
    """For samples of all seeds (S B, ...), from what is broadcastable to those (B, ...) of one. q is (S, B, ...)."""
    if dim is None and (mask.dim() < q.dim() - 1 or mask.shape[0] == 1):
        return mask
    mask = _first(mask, dim, seeds)
    for _ in range(q.dim() - mask.dim()):
        mask = mask.unsqueeze(1)
    return mask.expand(seeds, q.shape[1], *mask.shape[2:]).flatten(0, 1)


# Of each tensor that the operator takes, in its order, which dimension counts samples and which counts heads; None: it
# has none. Spans are of heads alone, or of samples and heads.
_SAMPLES: Sequence[int | None] = (0, 0, 0, 0, 0, 1, 1, 0, None, None)
_HEADS: Sequence[int | None] = (1, 1, 1, None, 1, 2, 2, 1, 0, 0)
_SPANS = 4


@torch.library.register_vmap(OPERATOR)  # type: ignore[untyped-decorator]
def _sparse(info: Any, in_dims: _Dims, *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    """The operator for all seeds: more samples, or more heads where heads have numbers that each seed learns."""
    tensors, dims, settings = args[: len(_SAMPLES)], in_dims[: len(_SAMPLES)], args[len(_SAMPLES) :]
    seeds = info.batch_size
    for axis, places in ((0, _with_spans(_SAMPLES, None, tensors, dims)), (1, _with_spans(_HEADS, 0, tensors, dims))):
        if all(place is not None or dim is None for place, dim in zip(places, dims, strict=True)):
            size = tensors[0].shape[axis + (dims[0] is not None and dims[0] <= axis)]
            folded = [_fold(*each, seeds, size) for each in zip(tensors, dims, places, strict=True)]
            out, lse = torch.ops.ablab.sparse_attention(*folded, *settings)
            return (out.unflatten(axis, (seeds, size)), lse.unflatten(axis, (seeds, size))), (axis, axis)
    each = [
        torch.ops.ablab.sparse_attention(*(_of(x, dim, seed) for x, dim in zip(tensors, dims, strict=True)), *settings)
        for seed in range(seeds)
    ]
    outs, sums = zip(*each, strict=True)
    return (torch.stack(outs), torch.stack(sums)), (0, 0)


def _with_spans(places: _Dims, alone: int | None, tensors: Sequence[Any], dims: _Dims) -> list[int | None]:
    """The places where spans may be of heads alone, whose dimension then is `alone`."""
    spans, dim = tensors[_SPANS], dims[_SPANS]
    if spans is None or spans.dim() - (dim is not None) > 1:
        return list(places)
    return [alone if index == _SPANS else place for index, place in enumerate(places)]


def _fold(x: Tensor | None, dim: int | None, place: int | None, seeds: int, size: int) -> Tensor | None:
    """With the seeds in dimension `place`, in front of the `size` that stand there."""
    if x is None or place is None or (dim is None and x.shape[place] == 1 != size):
        return x
    x = _first(x, dim, seeds).movedim(0, place)
    if x.shape[place + 1] != size:  # of one that stands for all
        x = x.expand(*x.shape[: place + 1], size, *x.shape[place + 2 :])
    return x.flatten(place, place + 1)


def _of(x: Tensor | None, dim: int | None, seed: int) -> Tensor | None:
    return x if x is None or dim is None else x.select(dim, seed)
