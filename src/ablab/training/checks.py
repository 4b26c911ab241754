"""What optimizers and strategies refuse, in one line each, before a run is started."""

from __future__ import annotations


def require_shares(**values: float) -> None:
    """Raises ValueError for the first of `values`, weights of moving averages, that is not in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} must be at least 0 and less than 1")
