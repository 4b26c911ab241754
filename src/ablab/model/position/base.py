"""What every position option is."""

from __future__ import annotations

from torch import Tensor, nn


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


def rows(table: Tensor, offset: int, length: int) -> Tensor:
    """The rows of positions offset..offset+length-1 of a table (max_length, ...).

    Raises:
        ValueError: the table ends before; a slice would be cut short in silence, and one row broadcast over many.
    """
    if offset < 0 or offset + length > table.shape[0]:
        raise ValueError(f"positions {offset}..{offset + length - 1} lie beyond the model's 0..{table.shape[0] - 1}")
    return table[offset : offset + length]
