"""The axis `strategy`: how a run is spread over processes and devices.

An option is a function of its settings that returns what Lightning's Trainer takes as `strategy`. `processes` is
read by whoever starts the run: the processes exist before the strategy is built.
"""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy, Strategy


def single(*, processes: int = 1) -> str:
    """One process on one device. Raises ValueError if asked for more."""
    if processes != 1:
        raise ValueError(f"strategy=single runs one process, got strategy.processes={processes}: use strategy=ddp")
    return "auto"


def ddp(
    *,
    processes: int,
    bucket_cap_mb: int = 25,
    gradient_as_bucket_view: bool = True,
    static_graph: bool = True,
) -> Strategy:
    """Data parallel training: NCCL between GPUs, gloo between CPU processes.

    Raises:
        ValueError: fewer than two processes, which would be `single` under another name.
    """
    if processes < 2:
        raise ValueError(f"strategy=ddp needs at least 2 processes, got trainer.devices={processes}")
    return DDPStrategy(
        bucket_cap_mb=bucket_cap_mb,
        gradient_as_bucket_view=gradient_as_bucket_view,
        static_graph=static_graph,
    )
