"""No implementation is timed before it has computed what it claims to compute."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.bench.attention.implementation import Attention

SAMPLE = 32  # queries that are compared; their gradients reach all keys
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of the largest number
# Public implementations of Reformer hide a query's own key by taking 5e4 or 1e5 from its score. Where the query has no
# other key, that leaves so few digits of single precision.
TOLERANCE_ALONE = 1e-2


class WrongResultError(Exception):
    """An implementation does not compute what it claims to; the message says by how much."""


def sample(length: int) -> Tensor:
    """Positions: the first one, the last one and the middles of equal stretches, so that means over them are fair."""
    count = min(SAMPLE, length)
    middles = (torch.arange(count) * 2 + 1) * length // (2 * count)
    return torch.cat([middles, torch.tensor([0, length - 1])])


def check(attention: Attention, q: Tensor, k: Tensor, v: Tensor, grad: Tensor, *, backward: bool) -> float:
    """Compare outputs and, with `backward`, gradients of q, k and v, with naive dense attention at a few queries.

    Args:
        q: (B, H, T, D), as k, v and grad, the gradient of the output.

    Returns:
        The keys that a query sees, mean over the queries compared.

    Raises:
        WrongResultError: they differ.
    """
    positions = sample(q.shape[2]).to(q.device)
    q, k, v = (x.detach().requires_grad_(backward) for x in (q, k, v))
    with torch.set_grad_enabled(backward):
        out = attention(q, k, v)
        expected = attention.expected(q, k, v, positions)
    found, tolerance = out[:, :, positions], TOLERANCE[out.dtype]
    alone = expected.alone.expand(found.shape[:3])
    _compare("output", found[~alone], expected.out[~alone], tolerance)
    _compare("output of queries that see one key", found[alone], expected.out[alone], max(tolerance, TOLERANCE_ALONE))
    if backward:
        rows = grad[:, :, positions].masked_fill(alone.unsqueeze(-1), 0)
        got = torch.autograd.grad(found, (q, k, v), rows, allow_unused=True)
        right = torch.autograd.grad(expected.out, (q, k, v), rows.double(), allow_unused=True)
        zero = torch.zeros_like(q)
        for name, one, other in zip(("queries", "keys", "values"), got, right, strict=True):
            _compare(
                f"gradient of the {name}", zero if one is None else one, zero if other is None else other, tolerance
            )
    return expected.keys


def _compare(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    if found.numel() == expected.numel() == 0:
        return
    if found.shape != expected.shape:
        raise WrongResultError(f"wrong {what}: of shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    error = (found.double() - expected.double()).abs().max().item()
    allowed = tolerance * max(expected.abs().max().item(), 1e-30)
    if not error <= allowed:
        raise WrongResultError(f"wrong {what}: off naive attention by {error:.1e}, where {allowed:.1e} is allowed")
