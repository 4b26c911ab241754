"""The linear warm-up with which every schedule begins."""

from __future__ import annotations


def warmup_steps(total_steps: int, warmup_share: float) -> int:
    """Steps of the warm-up. Raises ValueError unless there is a step and the share lies in [0, 1)."""
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")
    if not 0 <= warmup_share < 1:
        raise ValueError(f"warmup_share must be at least 0 and less than 1, got {warmup_share}")
    return round(total_steps * warmup_share)


def warmup_factor(step: int, warmup: int) -> float:
    """The factor at `step` (from 0): rises in equal parts, never 0, and is 1 from `warmup` on."""
    return min(1.0, (step + 1) / (warmup + 1))
