"""What hashing attention keeps of the tokens that it has seen: keys, values and the buckets of the keys.

How many buckets there are, and whether there are any, may hang on the length of a sequence. A cache takes the room that
it has for this length: what comes out of passes is what comes out of a sequence that is padded to as many tokens. Where
`buckets` is given and `dense_below` is 0, or there is less room than that, no length makes a difference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.model.attention.base import repeat_heads
from ablab.model.attention.cache import KeyValueCache, LayerCache, Slots, Step
from ablab.model.attention.hashing import RotationHash

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # as wide as the numbers beside them


class HashedCache(LayerCache):
    """Of each token a key and a value for each head of keys, and the bucket of the key in each round.

    Args:
        capacity: tokens, for as many of which queries and keys are hashed.
        rounds: 0: nothing is hashed.
    """

    def __init__(self, batch: int, heads: int, capacity: int, size: int, *, rounds: int, like: Tensor) -> None:
        self.capacity, self.rounds = capacity, rounds
        self.tokens = KeyValueCache(batch, heads, capacity, size, like=like)
        integers = like.new_empty(0, dtype=INTEGERS[like.dtype.itemsize])
        self.buckets = Slots(batch, heads * rounds, capacity, 1, like=integers)

    @staticmethod
    def numbers(length: int, *, heads: int, size: int, rounds: int) -> int:
        """How many it keeps of a sample of so many tokens."""
        return length * heads * (2 * size + rounds)

    def extend(
        self, q: Tensor, k: Tensor, v: Tensor, step: Step, hash_: RotationHash | None, *, share_qk: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take in new tokens, q (B, H, S, D) and keys and values (B, K, S, D).

        Returns:
            All keys and values, (B, K, L, D) each, and the buckets of the new queries (B, H, rounds, S); None where
            nothing is hashed.
        """
        keys, values, _ = self.tokens.extend(k, v, step)
        if not self.rounds or hash_ is None:
            return keys, values, None
        asked = hash_(q, self.capacity)
        offered = asked if share_qk else hash_(k, self.capacity)
        self.buckets.write(offered.flatten(1, 2).unsqueeze(-1), step)
        return keys, values, asked

    def seen(self, asked: Tensor, step: Step, back: int) -> Tensor:
        """Which keys some round brings: the `back` last ones before a query in its bucket, bool (B, H, S, L).

        Args:
            asked: the buckets of the new queries, as `extend` gives them.
        """
        total = step.total
        offered = self.buckets.tensor[:, :, :total, 0].unflatten(1, (-1, self.rounds))
        offered = repeat_heads(offered.flatten(2).unsqueeze(2), asked.shape[1]).squeeze(2).unflatten(2, (-1, total))
        before = torch.arange(total, device=asked.device) < step.positions[:, None, :, None]
        found = torch.zeros(len(asked), asked.shape[1], asked.shape[3], total, dtype=torch.bool, device=asked.device)
        for own, keys in zip(asked.unbind(2), offered.unbind(2), strict=True):
            alike = (own.unsqueeze(-1) == keys.unsqueeze(2)) & before
            if back < total:
                alike = alike & (alike.flip(-1).cumsum(-1, dtype=torch.int32).flip(-1) <= back)
            found = found | alike
        return found
