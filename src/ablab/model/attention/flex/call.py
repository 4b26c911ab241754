"""One call of PyTorch's FlexAttention: compiled on CUDA, and a dense stand-in with the same signature anywhere else.

FlexAttention is given a rule of which keys a query sees (and a change of scores) as functions of indices, which may
read tensors, and compiles one kernel of them. It has no backward pass on a CPU. There, and in tests, the stand-in
computes the same from all scores: output, log-sum-exp and gradients, without the blocks that a block mask leaves out.

Options ask `wanted(q)` whether to take this way, and never for a device.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention
from torch.nn.functional import pad

from ablab.model.attention.base import repeat_heads
from ablab.model.attention.flex.masks import EVERYTHING
from ablab.model.attention.flex.masks import block_mask as made
from ablab.model.attention.kernel import without_autocast, working_dtype

# (batch, head of queries, query, key) -> whether it is seen; as FlexAttention calls it, elementwise in all four.
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# (score, batch, head of queries, query, key) -> the score in its place. Tensors that it reads get gradients.
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

Given = ParamSpec("Given")
Result = TypeVar("Result")

SMALLEST = 16  # coordinates of a head: the kernels multiply no smaller matrices
# Rules that are kept compiled, each once: layers of different settings times lengths of sequences. Beyond them all are
# compiled anew.
RULES = 256


class Engine(Protocol):
    """What computes a call, of queries, keys and values of one dtype; see `attend`."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask_mod: MaskMod,
        block_mask: BlockMask | None,
        score_mod: ScoreMod | None,
        scale: float,
    ) -> tuple[Tensor, Tensor]: ...


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask_mod: MaskMod,
    *,
    block_mask: BlockMask | None = None,
    score_mod: ScoreMod | None = None,
    scale: float | None = None,
    grouped: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over the keys that `mask_mod` allows within the blocks of `block_mask`.

    Under autocast it computes in that precision, as PyTorch's own attention does.

    Args:
        q: (B, H, S, D); k (B, K, T, D) and v (B, K, T, Dv) with K dividing H.
        block_mask: the blocks that are visited (`ablab.model.attention.flex.masks`), whose own `mask_mod` is not read;
            None: all. Its full blocks are seen whole, whatever `mask_mod` says.
        score_mod: changes scores that are seen, after `scale`.
        scale: of the products; None for 1 / sqrt(D).
        grouped: whether heads of keys serve several of queries; None: as the shapes say.

    Returns:
        (B, H, S, Dv), zero where a query sees nothing, and the log-sum-exp of its scores (B, H, S), of single precision
        at least and minus infinity there. Both have gradients.
    """
    assert grouped is None or grouped == (q.shape[1] != k.shape[1])
    dtype = v.dtype
    if torch.amp.is_autocast_available(q.device.type) and torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = (x.to(dtype) for x in (q, k, v))
    common = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    q, k, v = (x.to(common) for x in (q, k, v))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    engine = (compiled if q.device.type == "cuda" else dense) if _chosen is None else _chosen
    with without_autocast(q.device):
        out, lse = engine(q, k, v, mask_mod, block_mask, score_mod, scale)
    return out.to(dtype), lse


def wanted(q: Tensor) -> bool:
    """Whether attention of queries like `q` is to go this way: on CUDA, in a precision that its kernels have, or where
    an engine is set (`using`)."""
    return _chosen is not None or (q.device.type == "cuda" and q.dtype != torch.float64)


_chosen: Engine | None = None  # of all calls; None: by device


@contextmanager
def using(engine: str | Engine) -> Iterator[None]:
    """Within it every option takes its way by FlexAttention, on any device, computed by "dense", "compiled" or another
    engine."""
    global _chosen
    before = _chosen
    _chosen = {"dense": dense, "compiled": compiled}[engine] if isinstance(engine, str) else engine
    try:
        yield
    finally:
        _chosen = before


def compiled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask_mod: MaskMod,
    block_mask: BlockMask | None,
    score_mod: ScoreMod | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """FlexAttention's own kernels. Heads smaller than they take are filled up with zeros."""
    width = v.shape[-1]
    q, k, v = (x if x.shape[-1] >= SMALLEST else pad(x, (0, SMALLEST - x.shape[-1])) for x in (q, k, v))
    if block_mask is None:
        block_mask = made(EVERYTHING, q.shape[2], k.shape[2], q.device, alone=False)
    out, beside = _compiled(flex_attention)(
        q,
        k,
        v,
        score_mod=score_mod,
        block_mask=_with_rule(block_mask, mask_mod),
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    assert beside.lse is not None
    return out if out.shape[-1] == width else out[..., :width], beside.lse


def dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask_mod: MaskMod,
    block_mask: BlockMask | None,
    score_mod: ScoreMod | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The same from all scores, in memory that grows as S T: on any device, with gradients."""
    exact, (B, H, S, _), T = working_dtype(q), q.shape, k.shape[2]
    batch, head, query, key = (
        torch.arange(size, device=q.device, dtype=torch.int32).view([-1 if n == place else 1 for n in range(4)])
        for place, size in enumerate((B, H, S, T))
    )
    scores = q.to(exact) @ repeat_heads(k, H).to(exact).transpose(-1, -2) * scale
    seen = mask_mod(batch, head, query, key)
    seen = (seen if block_mask is None else _within(block_mask, seen, S, T)).expand(B, H, S, T)
    if score_mod is not None:
        scores = score_mod(scores, batch, head, query, key)
    nothing = ~seen.any(-1)
    # A row of nothing but minus infinity has no softmax and no gradient: let it be of zeros, and take these out again.
    scores = scores.masked_fill(~seen, -math.inf).masked_fill(nothing.unsqueeze(-1), 0)
    weights = scores.softmax(-1).masked_fill(nothing.unsqueeze(-1), 0)
    return (weights @ repeat_heads(v, H).to(exact)).to(v.dtype), scores.logsumexp(-1).masked_fill(nothing, -math.inf)


def fused(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Compile what stands around calls, and would be many small kernels, wherever they are compiled."""

    @wraps(function)
    def either(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        on_cuda = any(isinstance(x, Tensor) and x.device.type == "cuda" for x in args)
        if _chosen is not compiled and not (_chosen is None and on_cuda):
            return function(*args, **kwargs)
        return _compiled(function)(*args, **kwargs)

    return either


def _compiled(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Within a graph that is compiled as a whole, the function as it is."""
    if torch.compiler.is_compiling():
        return function
    made: Callable[Given, Result] = _made_compiled(function)
    return made


@cache
def _made_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # Of one graph, and never without its kernels, which would write out all scores.
    compiled: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=False, **own_limit(RULES))

    @wraps(function)
    def of_any_number(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except torch._dynamo.exc.FailOnRecompileLimitHit:  # texts that are gone on with have any number of lengths
            torch.compiler.reset()  # of all functions; what is still needed is compiled once more
            return compiled(*args, **kwargs)

    return of_any_number


def own_limit(recompilations: int) -> dict[str, Any]:
    """The arguments of `torch.compile` that count a function's recompilations by themselves; none of a version without.

    All compilations of one function then share the limit of the process, which is raised to so many, and
    `torch.compiler.reset()` begins anew.
    """
    wanted = {"recompile_limit": recompilations, "isolate_recompiles": True}
    if wanted.keys() <= inspect.signature(torch.compile).parameters.keys():
        return wanted
    torch._dynamo.config.recompile_limit = max(recompilations, torch._dynamo.config.recompile_limit)
    return {}


def _with_rule(blocks: BlockMask, mask_mod: MaskMod) -> BlockMask:
    """The same blocks with a rule of their own."""
    return BlockMask(
        seq_lengths=blocks.seq_lengths,
        kv_num_blocks=blocks.kv_num_blocks,
        kv_indices=blocks.kv_indices,
        full_kv_num_blocks=blocks.full_kv_num_blocks,
        full_kv_indices=blocks.full_kv_indices,
        q_num_blocks=blocks.q_num_blocks,
        q_indices=blocks.q_indices,
        full_q_num_blocks=blocks.full_q_num_blocks,
        full_q_indices=blocks.full_q_indices,
        BLOCK_SIZE=blocks.BLOCK_SIZE,
        mask_mod=mask_mod,
    )


def _within(blocks: BlockMask, seen: Tensor, queries: int, keys: int) -> Tensor:
    """`seen` in the partial blocks, everything in the full ones, and nothing elsewhere."""
    partial = _tokens(blocks, blocks.kv_num_blocks, blocks.kv_indices, queries, keys)
    seen = seen & partial
    if blocks.full_kv_num_blocks is None or blocks.full_kv_indices is None:
        return seen
    return seen | _tokens(blocks, blocks.full_kv_num_blocks, blocks.full_kv_indices, queries, keys)


def _tokens(blocks: BlockMask, counts: Tensor, indices: Tensor, queries: int, keys: int) -> Tensor:
    """(.., S, T): which pairs lie in the first `counts` blocks of each row of `indices`."""
    device, (rows, columns) = indices.device, blocks.BLOCK_SIZE
    among = (torch.arange(indices.shape[-1], device=device) < counts.unsqueeze(-1)).int()
    dense = torch.zeros_like(indices).scatter_add(-1, indices.long(), among) > 0
    query, key = torch.arange(queries, device=device) // rows, torch.arange(keys, device=device) // columns
    return dense[..., query, :][..., key]
