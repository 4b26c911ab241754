"""Where each modality lies in a stream of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The modalities in their order, each with its number of tokens."""

    lengths: Mapping[str, int]

    @property
    def names(self) -> list[str]:
        return list(self.lengths)

    @property
    def total(self) -> int:
        """Tokens of all modalities together."""
        return sum(self.lengths.values())

    @property
    def places(self) -> dict[str, slice]:
        """The positions of each modality in the stream."""
        found, start = {}, 0
        for name, length in self.lengths.items():
            found[name] = slice(start, start + length)
            start += length
        return found
