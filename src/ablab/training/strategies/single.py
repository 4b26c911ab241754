"""One process on one device."""

from __future__ import annotations


def single(*, processes: int = 1) -> str:
    """What Lightning chooses for one device. Raises ValueError if asked for more."""
    if processes != 1:
        raise ValueError(f"strategy=single runs one process, got strategy.processes={processes}: use strategy=ddp")
    return "auto"
