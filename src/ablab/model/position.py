"""The axis `position`: how the model knows the order of the tokens. Each option is a `Position`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablab.model.context import LayerContext
from ablab.model.mechanism import Watcher, drawn, projected
from ablab.model.ranks import has_first_samples, sum_over_ranks
from ablab.model.spec import LayerSpec

if TYPE_CHECKING:
    from ablab.model.attention.layer import Rotate
    from ablab.model.transformer import Transformer

TOKENS = 256  # of the first sequence that is looked at


class Position(nn.Module):
    """Tells the model the order of the tokens, in one of three places; an option overrides the one that it needs.

    Attributes:
        slopes: None, or (H,): a score falls by so much per token between query and key.
    """

    slopes: Tensor | None = None

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        """Embedded tokens x (B, T, d_model), the first of them at position `offset` -> the same shape."""
        return x

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of one layer, each (B, H, T, D), the first at position 0 -> the same shapes."""
        return q, k

    def add_at(self, x: Tensor, positions: Tensor) -> Tensor:
        """As `add`, of tokens at `positions` (B, T), each sample's own."""
        return x

    def at(self, positions: Tensor) -> Rotate:
        """`rotate` for tokens at `positions` (B, T), each sample's own."""
        return self.rotate


def rows(table: Tensor, offset: int, length: int) -> Tensor:
    """The rows of positions offset..offset+length-1 of a table (max_length, ...).

    Raises:
        ValueError: the table ends before; a slice would be cut short in silence, and one row broadcast over many.
    """
    if offset < 0 or offset + length > table.shape[0]:
        raise ValueError(f"positions {offset}..{offset + length - 1} lie beyond the model's 0..{table.shape[0] - 1}")
    return table[offset : offset + length]


class NoPosition(Position):
    """No position: in a causal model the mask alone tells the order (Haviv et al. 2022)."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()


class Learned(Position):
    """A trained table (max_length, d_model), whose row t is added to token t (Gehring et al. 2017, section 3.1)."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(spec.max_length, spec.d_model))

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        return x + rows(self.weight, offset, x.shape[1])

    def add_at(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.weight[positions]


class Sinusoidal(Position):
    """`scale` times a fixed table is added to the tokens (Vaswani et al. 2017, section 3.5):

        table[t, 2i] = sin(t / 10000^(2i / d_model)),   table[t, 2i + 1] = cos(t / 10000^(2i / d_model)).

    Deviation: the paper adds the table at scale 1 to embeddings multiplied by sqrt(d_model) (section 3.4). Here the
    embeddings are left as small as for every other option, and the table is scaled to them instead.

    Args:
        scale: amplitude of the table, above 0.
    """

    table: Tensor

    def __init__(self, spec: LayerSpec, *, scale: float) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        time = torch.arange(spec.max_length, dtype=torch.float64)
        even = torch.arange(0, spec.d_model, 2, dtype=torch.float64)
        angle = time[:, None] / 10000 ** (even / spec.d_model)
        table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, : spec.d_model]
        self.register_buffer("table", (scale * table).to(torch.get_default_dtype()), persistent=False)

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        return x + rows(self.table, offset, x.shape[1]).to(x.dtype)

    def add_at(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table[positions].to(x.dtype)


class Rope(Position):
    """Rotary positions (Su et al. 2021, section 3.2.2), by which scores see distances only.

    Pair i of each query and key at position t is rotated by t * base^(-2i / D). With a `share` below 1 only the D
    leading coordinates of each head are rotated (Black et al. 2022, GPT-NeoX-20B, section 2.1).

    Deviation: coordinate i is paired with i + D/2 instead of 2i with 2i + 1 (equation 34). The two differ by a fixed
    permutation of the coordinates, which the projections before absorb; halves need no interleaving in memory.

    Args:
        base: of the wavelengths, which run from 2 pi to 2 pi base^(1 - 2 / D), below 2 pi base; above 1.
        share: of each head's coordinates that are rotated, above 0 and at most 1.

    Raises:
        ValueError: a value is out of its range, or the rotated coordinates are an odd number and cannot be paired.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, spec: LayerSpec, *, base: float, share: float = 1.0) -> None:
        super().__init__()
        if base <= 1:
            raise ValueError(f"base must be above 1, got {base}")
        if not 0 < share <= 1:
            raise ValueError(f"position.share must be above 0 and at most 1, got {share}")
        if spec.head_size % 2:
            raise ValueError(
                f"rotary positions need an even head size, but model.d_model={spec.d_model} over "
                f"model.n_heads={spec.n_heads} is {spec.head_size}: choose other sizes"
            )
        size = round(share * spec.head_size)
        if size < 2 or size % 2:
            raise ValueError(
                f"position.share={share} rotates {size} of a head's {spec.head_size} coordinates: choose a share that "
                "makes it an even number, at least 2"
            )
        pair = torch.arange(0, size, 2, dtype=torch.float64)
        angle = torch.arange(spec.max_length, dtype=torch.float64)[:, None] * base ** (-pair / size)
        dtype = torch.get_default_dtype()
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], dim=-1).to(dtype), persistent=False)
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], dim=-1).to(dtype), persistent=False)

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = (rows(table, 0, q.shape[2]).to(q.dtype) for table in (self.cos, self.sin))
        return _turn(q, cos, sin), _turn(k, cos, sin)

    def at(self, positions: Tensor) -> Rotate:
        tables = [table[positions].unsqueeze(1) for table in (self.cos, self.sin)]  # (B, 1, T, as many as are rotated)

        def rotate(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            cos, sin = (table.to(q.dtype) for table in tables)
            return _turn(q, cos, sin), _turn(k, cos, sin)

        return rotate

    def turn(self, x: Tensor, *, stride: int = 1, back: bool = False) -> Tensor:
        """Rotate x (..., T, D), of which one stands at every `stride`-th position; `back` takes a rotation away."""
        length = stride * (x.shape[-2] - 1) + 1
        cos, sin = (rows(table, 0, length)[::stride].to(x.dtype) for table in (self.cos, self.sin))
        return _turn(x, cos, -sin if back else sin)

    def turn_at(self, x: Tensor, positions: Tensor, *, back: bool = False) -> Tensor:
        """As `turn`, of x (B, heads, T, D) at `positions` (B, T), each sample's own."""
        cos, sin = (table[positions].unsqueeze(1).to(x.dtype) for table in (self.cos, self.sin))
        return _turn(x, cos, -sin if back else sin)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (..., T, D), of which the leading coordinates are rotated by tables (T, as many)."""
    size = cos.shape[-1]
    if size < x.shape[-1]:
        return torch.cat([_turn(x[..., :size], cos, sin), x[..., size:]], -1)
    # Rolling by half swaps the two members of each pair; `sin` carries the minus sign of the first.
    return x * cos + x.roll(size // 2, -1) * sin


class ALiBi(Position):
    """Attention with linear biases (Press et al. 2022, "Train Short, Test Long").

    Subtracts slope[h] |i - j| from the score of query i and key j in head h; nothing is added to the tokens.

    Slopes are 2^(-8 k / n) for k = 1 ... n in n heads, where n is a power of two; for other n those of the power of two
    below, and every second one of the power above, as in the paper's released code. Where the model is not causal the
    bias is symmetric.

    The bias is the attention's to add: cores that cannot (`AttentionCore.takes_slopes`) are refused.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.slopes: Tensor = torch.tensor(slopes_of(spec.n_heads), dtype=torch.float32)


def slopes_of(heads: int) -> list[float]:
    """One slope per head, falling in each of the two sequences that they are taken from."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (k + 1) / below) for k in range(below)]
    return slopes + [2 ** (-8 * (k + 1) / (2 * below)) for k in range(0, 2 * (heads - below), 2)]


class PositionWatcher(Watcher):
    """Keeps the tokens of the first embedded sequence that passes, and asks the first layer's attention about them.

    Of several modalities it asks about the longest alone. Padding is no token.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__("position", None, model.embedding)
        self._model = model
        self._passing: Tensor | None = None  # (1, T, d_model), of the pass that has begun
        self._sample: Tensor | None = None  # of these its tokens
        self._place, self._block = model.longest_input()

    def attach(self) -> list[RemovableHandle]:
        return [*super().attach(), self._model.register_context_hook(self.guarded(self._keep))]

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        if self._sample is None and has_first_samples():
            self._passing = output[:1, self._place].detach()

    def _keep(self, context: LayerContext) -> None:
        own, self._passing = self._passing, None
        if self._sample is None and own is not None:
            missing = context.key_padding_mask
            own = own if missing is None else own[:, ~missing[0, self._place]]
            self._sample = own[:, :TOKENS] if own.shape[1] > 2 else None

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """`order_sensitivity`: how far what the last token gets moves when all tokens before it are turned round.

        Relative to its size. Full attention without positions cannot tell the two apart: 0. The sample is the first
        of all; every process of a distributed run must call it.
        """
        device = self._model.head.weight.device
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        if self._sample is not None:
            there, back = (self._of_last(x) for x in (self._sample, _turned(self._sample)))
            size = there.norm()
            totals[0], totals[1] = (there - back).norm() / size if size > 0 else 0.0, 1.0
        total, count = sum_over_ranks(totals).tolist()
        return {"order_sensitivity": total / count} if count else {}

    def _of_last(self, x: Tensor) -> Tensor:
        position, block = self._model.position, self._block
        x = position.add(x, self._place.start)
        mixed: Tensor = block.attention(block.attention_norm.before(x), position.rotate)
        return mixed[0, -1].double()


def _turned(x: Tensor) -> Tensor:
    return torch.cat([x[:, :-1].flip(1), x[:, -1:]], 1)


def idle_position(model: Transformer) -> list[str]:
    """A line where the position has nothing to do: it rotates queries and keys, and no layer has any to rotate."""
    position = type(model.position)
    works_elsewhere = position.add is not Position.add or model.position.slopes is not None
    if position.rotate is Position.rotate or works_elsewhere:
        return []
    if any(block.attention.rotates for _, block in model.layers()):
        return []
    return [
        f"the position ({position.__name__}) has nothing to do: no layer's attention has queries and keys to rotate"
    ]


def watch(model: Transformer, pictured: bool) -> Iterator[Watcher]:
    """The position, which all layers share."""
    yield PositionWatcher(model)


def probe_outputs(model: Transformer) -> dict[str, list[float]]:
    """Projections of what is added to the tokens, and of rotated queries and keys; slopes as they are."""
    like, heads = model.head.weight, model.n_heads
    length, width = model.max_length, like.shape[1]
    added = model.position.add(torch.zeros(1, length, width, device=like.device, dtype=like.dtype))
    q = drawn("queries", (1, heads, length, width // heads), like)
    rotated = model.position.rotate(q, q)
    slopes = [] if model.position.slopes is None else model.position.slopes.tolist()
    return {"": [*projected(added), *projected(rotated[0]), *projected(rotated[1]), *slopes]}
