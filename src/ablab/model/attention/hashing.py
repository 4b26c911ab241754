"""Buckets by random rotations, so that vectors of similar direction tend to share one (Andoni et al. 2015).

As in Reformer (Kitaev et al. 2020, section 2, "Locality sensitive hashing"): bucket(x) = argmax([xR; -xR]). The paper
normalises x, which does not change the argmax and is left out. One rotation per round serves all heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ablab.model.attention.base import repeat_heads
from ablab.model.attention.buckets import Buckets
from ablab.model.attention.dense import at_once
from ablab.model.attention.flex.call import fused
from ablab.model.attention.kernel import without_autocast
from ablab.model.initialisation import keyed_generator
from ablab.model.spec import LayerSpec, require_at_least

SLICE = 2**18  # projections computed at once, so that they stay in the cache


class RotationHash(nn.Module):
    """Hashes vectors into about length / `bucket_size` buckets, several times.

    Rotations are no parameters but a function of the seed, the layer and the training step (`redraw`), the same in
    every process; evaluation always uses one fixed rotation. Until `redraw` is called, training uses step 0.

    Args:
        rounds: independent hashings, at least 1.
        bucket_size: mean number of keys in a bucket, at least 1.
        buckets: 1, or an even number; None for about length / bucket_size.
        factored: two smaller rotations in place of one, a bucket for each pair of their results. The cost of one
            rotation grows as length times buckets, that is as length^2 / bucket_size; that of two as length^1.5.

    Raises:
        ValueError: a number is out of its range, or `buckets` cannot be factored.
    """

    rotations: Tensor
    evaluation_rotations: Tensor

    def __init__(
        self, spec: LayerSpec, *, rounds: int, bucket_size: int, buckets: int | None = None, factored: bool = False
    ) -> None:
        super().__init__()
        require_at_least(1, "rounds", rounds)
        require_at_least(1, "bucket_size", bucket_size)
        if buckets is not None and buckets != 1 and (buckets < 1 or buckets % 2):
            raise ValueError(f"buckets must be 1, an even number or null, got {buckets}")
        if factored and buckets is not None and buckets > 2 and buckets % 4:
            raise ValueError(f"buckets must be a multiple of 4 where factored=true, got {buckets}")
        self.seed, self.layer_index = spec.seed, spec.layer_index
        self.rounds, self.bucket_size, self.buckets, self.factored = rounds, bucket_size, buckets, factored
        # Drawn for the longest sequence; a shorter one uses the first columns.
        lengths = range(1, spec.max_length + 1) if factored else [spec.max_length]
        columns = max(sum(self.factors(length)) // 2 for length in lengths)
        self.shape = (spec.head_size, rounds, columns)
        device = torch.get_default_device()
        self.register_buffer("rotations", self._draw(0).to(device), persistent=False)
        self.register_buffer("evaluation_rotations", self._draw("evaluation").to(device), persistent=False)

    def factors(self, length: int) -> list[int]:
        """The buckets of each rotation, whose product is the number of buckets; none where there is one bucket."""
        if self.buckets is None and length <= self.bucket_size:
            return []
        count = self.buckets or 2 * max(1, round(length / self.bucket_size / 2))
        if count == 1:
            return []
        if not self.factored or count == 2:
            return [count]
        if self.buckets is None:
            first = 2 * max(1, round(math.sqrt(count) / 2))
            return [first, 2 * max(1, round(count / first / 2))]
        first = max(n for n in range(2, math.isqrt(count) + 1, 2) if count % n == 0 and count // n % 2 == 0)
        return [first, count // first]

    def count(self, length: int) -> int:
        """The number of buckets for sequences of `length`."""
        return math.prod(self.factors(length))

    def _draw(self, moment: int | str) -> Tensor:
        generator = keyed_generator("lsh", self.seed, self.layer_index, moment)
        return torch.randn(self.shape, generator=generator, device="cpu", dtype=torch.float32)

    def redraw(self, step: int) -> None:
        """Use the rotations of training step `step`."""
        drawn = self._draw(step)
        if self.rotations.device.type == "cuda":  # on its way while the program goes on
            drawn = drawn.pin_memory()
        self.rotations.copy_(drawn, non_blocking=True)

    @torch.no_grad()
    def forward(self, x: Tensor, length: int | None = None) -> Tensor:
        """Queries or keys x (B, H, T, D) -> buckets (B, H, rounds, T), int64; as of a sequence of `length`, None: T."""
        factors = self.factors(x.shape[2] if length is None else length)
        rotations = self.rotations if self.training else self.evaluation_rotations
        with without_autocast(x.device):
            return _hashed(x, rotations, factors)


@fused
def _hashed(x: Tensor, rotations: Tensor, factors: list[int]) -> Tensor:
    """x (B, H, T, D) -> (B, H, rounds, T), by rotations (D, rounds, n) of which each factor takes half as many."""
    (B, H, T, D), rounds = x.shape, rotations.shape[1]
    found = torch.zeros(B, T, H, rounds, dtype=torch.int64, device=x.device)
    rows = x.transpose(1, 2).reshape(-1, D).float()
    start = 0
    for factor in factors:
        half = rotations[..., start : start + factor // 2].float()
        found = found * factor + _strongest(rows, half).view(B, T, H, rounds)
        start += factor // 2
    return found.permute(0, 2, 3, 1)


def _strongest(x: Tensor, rotations: Tensor) -> Tensor:
    """argmax([xR; -xR]) for x (N, D) and rotations (D, rounds, n): (N, rounds) in 0..2n-1.

    The number of the column takes the place of the lowest bits of each projection, so that its extremes carry their
    columns with them. Projections that differ by less than that (one part in 2^23 / n) may change places.
    """
    D, rounds, n = rotations.shape
    matrix = rotations.reshape(D, rounds * n)
    low = 2 ** max(1, (n - 1).bit_length()) - 1
    columns = torch.arange(n, dtype=torch.int32, device=x.device)
    least, most = x.new_empty(len(x), rounds), x.new_empty(len(x), rounds)
    size = max(1, at_once(SLICE, x.device) // (rounds * n))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        bits = (x[rows] @ matrix).view(-1, rounds, n).view(torch.int32)
        bits.bitwise_and_(~low).bitwise_or_(columns)
        tagged = bits.view(torch.float32)
        least[rows], most[rows] = tagged.amin(-1), tagged.amax(-1)
    negative = -least > most
    column = torch.where(negative, least, most).view(torch.int32).bitwise_and(low)
    return (column + negative * n).long()


def hash_buckets(
    hash_: RotationHash,
    q: Tensor,
    k: Tensor,
    key_padding_mask: Tensor | None,
    *,
    causal: bool,
    share_qk: bool,
    length: int | None = None,
    grouped: bool = False,
) -> Buckets:
    """The buckets of who may see whom, for q (B, H, T, D) and k (B, K, T, D): the nearest keys of the bucket.

    Args:
        length: there are as many buckets as of a sequence of so many tokens; None: T.
        grouped: buckets of keys are those of the K heads; otherwise of all H, to each of which a key has the same one.
    """
    length = q.shape[2] if length is None else length
    count = hash_.count(length)
    queries = hash_(q, length)
    keys = None if share_qk else hash_(k, length)
    if keys is not None and not grouped:
        keys = repeat_heads(keys, q.shape[1])
    if key_padding_mask is not None:
        padded = key_padding_mask[:, None, None, :]
        if keys is None:
            queries = queries.masked_fill(padded, count)
        else:
            keys = keys.masked_fill(padded, count)
    reach = hash_.bucket_size if causal else max(1, hash_.bucket_size // 2)
    reach = min(reach, q.shape[2])
    return Buckets(
        queries=queries.permute(2, 0, 1, 3),
        keys=None if keys is None else keys.permute(2, 0, 1, 3),
        count=count,
        back=reach,
        ahead=0 if causal else reach,
    )


def bucket_figures(buckets: Buckets) -> dict[str, float]:
    """Measures of how evenly hashing fills the buckets: the mean over rounds, heads and sequences of

    * `buckets_used`: the share of the buckets that hold a key,
    * `bucket_size_mean`: keys in a bucket, over the buckets that hold any,
    * `bucket_size_max`: keys in the fullest bucket.
    """
    keys = buckets.queries if buckets.keys is None else buckets.keys
    lists = keys.flatten(0, 2)
    sizes = torch.zeros(len(lists), buckets.count + 1, device=keys.device)
    sizes.scatter_add_(1, lists, torch.ones_like(lists, dtype=sizes.dtype))
    sizes = sizes[:, : buckets.count]
    used = (sizes > 0).sum(1)
    return {
        "buckets_used": (used / buckets.count).mean().item(),
        "bucket_size_mean": (sizes.sum(1) / used.clamp(min=1)).mean().item(),
        "bucket_size_max": sizes.amax(1).mean().item(),
    }
