"""Linear recurrences over a sequence, in chunks: what mixes the positions in `gated_delta` and `mamba2`.

A head keeps a matrix S, its state, which each token makes fade, writes to and reads:

    state space: S_t = a_t S_{t-1} + b_t k_t v_t^T                             o_t = S_t^T q_t
    delta rule:  S_t = a_t S_{t-1} + b_t k_t (v_t - a_t S_{t-1}^T k_t)^T       o_t = S_t^T q_t

The sequence is cut into chunks. Within a chunk everything is matrix products; from chunk to chunk only the state goes
on, so that time and memory grow as the length. The decay a is given as its logarithm, and only differences of its sums
that are at most 0 are ever exponentiated: nothing overflows, however fast a head forgets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ablab.model.attention.base import repeat_heads
from ablab.model.attention.chunks import Fading, apart, cut, side_by_side, states_between
from ablab.model.attention.kernel import without_autocast, working_dtype
from ablab.model.spec import require_at_least

SEGMENT = (
    32  # chunks at one time: what is computed of more would not fit a CPU's cache, and cost fresh memory each time
)
VALUES = 256  # that are followed at one time


class Recurrence(nn.Module):
    """Mixes values over positions through a state. It has no scores, and no keys that a query visits or does not.

    Args:
        chunk: tokens that are computed together; it changes speed and memory, and results by rounding alone.

    Raises:
        ValueError: there is no token in a chunk.
    """

    def __init__(self, *, chunk: int) -> None:
        super().__init__()
        require_at_least(1, "chunk", chunk)
        self.chunk = chunk

    def weigh_down(self, slopes: Tensor) -> None:
        """Raises ValueError, as attention cores do that cannot (`AttentionCore.weigh_down`)."""
        raise ValueError("it keeps a state and has no scores that a bias by distance could be taken from")

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        write: Tensor,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Mix the values; a position hears of itself and of those before it.

        Args:
            q: (B, K, T, D), as k; K divides H, and each of its heads serves H / K neighbours.
            v: (B, H, T, Dv).
            log_decay: (B, H, T), at most 0: the logarithm of a.
            write: (B, H, T), b.
            key_padding_mask: (B, T) bool, true where there is no token: the state passes such a position unchanged.

        Returns:
            (B, H, T, Dv), in the dtype of v. The state has at least single precision.
        """
        return self.onward(q, k, v, log_decay, write, key_padding_mask)[0]

    def onward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor,
        write: Tensor,
        key_padding_mask: Tensor | None = None,
        state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`forward` from a state on, None being 0, and the state behind it: the given one, changed in place, or a new
        one. A single token is not computed as a chunk."""
        if key_padding_mask is not None:
            log_decay, write = (x.masked_fill(key_padding_mask[:, None], 0.0) for x in (log_decay, write))
        length, dtype = q.shape[2], working_dtype(v)
        size = min(self.chunk, length)
        missing = -length % size  # tokens that write nothing and let nothing fade
        with without_autocast(v.device):
            if length == 1 and state is not None:
                decay, write = (x.to(dtype).unsqueeze(-1) for x in (log_decay.exp(), write))
                return self.step(q.to(dtype), k.to(dtype), v.to(dtype), decay, write, state).to(v.dtype), state
            q, k, v_ = (cut(pad(x.to(dtype), (0, 0, 0, missing)), size) for x in (q, k, v))
            decay, b = (cut(pad(x.to(dtype), (0, missing)).unsqueeze(-1), size) for x in (log_decay, write))
            parts = []
            segments = [x.split(SEGMENT, 2) for x in (q, k, v_, decay, b)]
            for queries, keys, values, decays, writes in zip(*segments, strict=True):
                part, state = self.mix(queries, keys, values, decays, writes, state)
                parts.append(part)
        assert state is not None
        return torch.cat(parts, 2).flatten(2, 3)[:, :, :length].to(v.dtype), state

    def influence(self, q: Tensor, k: Tensor, log_decay: Tensor, write: Tensor, positions: Tensor) -> Tensor:
        """The matrix by which the values are mixed, at the S rows of `positions` (S,): (B, H, S, T), of any sign.

        Arguments are as in `forward`. For measurements: time grows as the square of the length.
        """
        (B, H, T), parts = log_decay.shape, []
        for start in range(0, T, VALUES):  # what comes before is not moved by values from here on
            rows = (each[:, :, start:] for each in (q, k))
            v = torch.eye(T - start, min(VALUES, T - start), dtype=working_dtype(q), device=q.device)
            out = self(*rows, v.expand(B, H, -1, -1), log_decay[:, :, start:], write[:, :, start:])
            parts.append(pad(out, (0, 0, start, 0))[:, :, positions])
        return torch.cat(parts, -1)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, write: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Outputs of whole chunks (B, H, N, C, Dv), and the state after them.

        Args:
            q: N chunks of C tokens each, (B, K, N, C, D), as all others up to `write`.
            state: before them, as an earlier call has returned it; None: 0.
        """
        raise NotImplementedError

    def step(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, write: Tensor, state: Tensor) -> Tensor:
        """Outputs of one token, (B, H, 1, Dv): the recurrence as it is written.

        Args:
            q: (B, K, 1, D), as k; v (B, H, 1, Dv).
            decay: (B, H, 1, 1), a itself, as `write`.
            state: as of `mix`; it is changed in place.
        """
        raise NotImplementedError

    def state_shape(self, heads: int, groups: int, key_size: int, value_size: int) -> tuple[int, int, int]:
        """Of the state of a sample, with `groups` heads of queries and keys and so many heads of values."""
        raise NotImplementedError


class StateSpace(Recurrence):
    """Adds to the state (Dao and Gu 2024, section 6: the blocks of a semiseparable matrix).

    Heads that share their keys lie side by side in what is multiplied with these: one product serves all of them.
    """

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, write: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        H, K, Dv = v.shape[1], k.shape[1], v.shape[-1]
        fade = Fading(log_decay)
        v = write * v
        scores = fade.between.unflatten(1, (K, H // K)) * (q @ k.mT).unsqueeze(2)
        written = k.mT @ side_by_side(fade.to_end * v, K)  # (B, K, N, D, H / K * Dv)
        whole = side_by_side(fade.whole.expand(-1, -1, -1, -1, Dv), K)
        states, last = states_between(written, whole, state)
        return scores.flatten(1, 2) @ v + fade.from_start * apart(q @ states, H), last

    def step(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, write: Tensor, state: Tensor) -> Tensor:
        B, K, D, width = state.shape
        size = v.shape[-1]
        state.view(B, K, D, -1, size).mul_(decay.view(B, K, 1, -1, 1))
        flat = state.view(B * K, D, width)
        flat.baddbmm_(k.reshape(B * K, D, 1), (write * v).reshape(B * K, 1, width))
        return torch.bmm(q.reshape(B * K, 1, D), flat).view(B, -1, 1, size)

    def state_shape(self, heads: int, groups: int, key_size: int, value_size: int) -> tuple[int, int, int]:
        return groups, key_size, heads // groups * value_size


class DeltaRule(Recurrence):
    """Replaces what the state holds under a key (Yang et al. 2024, arXiv 2412.06464, section 3.3).

    In a chunk that begins with the state S, what is written under the keys is X_v - X_k S, where X solves one
    triangular system for values and keys together. What reads S, for this and for the outputs, is one product for each
    chunk, and the state goes on by another.
    """

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, write: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        H, C, Dv = v.shape[1], v.shape[3], v.shape[-1]
        fade = Fading(log_decay)
        q, k = (repeat_heads(x.flatten(2), H).unflatten(2, x.shape[2:]) for x in (q, k))
        overlap = (write * fade.between * (k @ k.mT)).tril(-1)
        given = write * torch.cat([v, fade.from_start * k], -1)
        # From the right, since that takes a CPU half of the time.
        solved = torch.linalg.solve_triangular(overlap.mT, given.mT, upper=True, left=False, unitriangular=True).mT
        new, reads = solved[..., :Dv], torch.cat([solved[..., Dv:], fade.from_start * q], -2)  # (B, H, N, 2 C, D)
        onto = (fade.to_end * k).mT
        last = v.new_zeros(*v.shape[:2], k.shape[-1], Dv) if state is None else state
        last, written, seen = last.flatten(0, 1), [], []
        # Unbound, since the gradient of that is put together once; that of an index, each time.
        chunks = (x.flatten(0, 1).unbind(1) for x in (reads, new, onto, fade.whole))
        for read, value, key, whole in zip(*chunks, strict=True):
            of_keys, of_queries = torch.bmm(read, last).split(C, 1)
            written.append(value - of_keys)
            seen.append(of_queries)
            last = torch.baddbmm(whole * last, key, written[-1])
        inside = (fade.between * (q @ k.mT)).flatten(0, 1) @ torch.stack(written, 1)
        return (torch.stack(seen, 1) + inside).unflatten(0, v.shape[:2]), last.unflatten(0, v.shape[:2])

    def step(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, write: Tensor, state: Tensor) -> Tensor:
        B, H, D, size = state.shape
        q, k = (repeat_heads(x, H).reshape(B * H, D, 1) for x in (q, k))
        a, flat = decay.reshape(-1, 1, 1), state.view(B * H, D, size)
        new = write.reshape(-1, 1, 1) * (v.reshape(B * H, 1, size) - a * torch.bmm(k.mT, flat))
        flat.mul_(a).baddbmm_(k, new)
        return torch.bmm(q.mT, flat).view(B, H, 1, size)

    def state_shape(self, heads: int, groups: int, key_size: int, value_size: int) -> tuple[int, int, int]:
        return heads, key_size, value_size
