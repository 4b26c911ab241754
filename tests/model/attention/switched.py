"""Attention as its definition reads, with every switch of the axis, and how an option is held to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ablab.model.attention.flex.call import using

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 3e-2}


def switched_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    *,
    softcap: float | None = None,
    slopes: Tensor | None = None,
    weight: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """`naive.masked_attention` with a bound of scores, slopes (H,) and sinks (H,): (B, H, S, Dv)."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if slopes is not None:
        i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
        scores = scores - slopes[:, None, None] * (i - j).abs()
    if weight is not None:
        mask = mask & (weight > 0)
        scores = scores + weight.where(mask, 1).log()
    mask = mask.expand(scores.shape)
    each = scores.masked_fill(~mask, -1e9).exp()
    total = each.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks[:, None, None].exp()
    return (each / total.where(total > 0, 1)) @ v


def hold(
    found: Callable[..., Tensor],
    expected: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    there: Tensor | None = None,
    engine: str = "dense",
) -> None:
    """Outputs and gradients of all inputs are the same, where there are tokens (B, S): `expected` in double precision.

    What `found` makes of a padded query is finite.
    """
    leaves = [x.detach().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    with using(engine):
        out = found(*leaves)
    whole = expected(*exact)
    assert out.isfinite().all()
    direction = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if there is not None:
        direction = direction * there[:, None, :, None]
    ours = torch.autograd.grad(out, leaves, direction.to(out.dtype), allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad(whole, exact, direction, allow_unused=True, materialize_grads=True)
    tolerance = TOLERANCE[inputs[0].dtype]
    seen = direction != 0
    near(out * seen, whole * seen, tolerance)
    for mine, other in zip(ours, theirs, strict=True):
        near(mine, other, tolerance)


def near(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Within `tolerance` of what is of the size of the largest."""
    scale = theirs.abs().max().clamp(min=1).item()
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance * scale)


def with_slopes(core: nn.Module, heads: int) -> Tensor:
    """Give a core slopes, which are returned."""
    slopes = torch.linspace(0.02, 0.3, heads, dtype=torch.float64)
    core.weigh_down(slopes)  # type: ignore[operator]
    return slopes
