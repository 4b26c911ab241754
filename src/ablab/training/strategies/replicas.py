"""Data parallel training whose processes hold the whole model each, and send what a subclass says when it says."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from ablab.training.strategies.base import Parallel
from ablab.training.strategies.data_parallel import require_several


class Replicas(Parallel, DDPStrategy):
    """Lightning's DDPStrategy without DistributedDataParallel: its processes, its shares of the data, its reductions.

    Args:
        processes: at least 2.

    Raises:
        ValueError: fewer than two processes.
    """

    def __init__(self, *, processes: int) -> None:
        require_several(processes)
        super().__init__()

    def configure_ddp(self) -> None:
        """Nothing to wrap, and nothing to send: initial values are keyed, so that replicas start equal."""

    @property
    def weights(self) -> list[nn.Parameter]:
        """What is trained, in the model's order."""
        assert self.lightning_module is not None
        return [parameter for parameter in self.lightning_module.parameters() if parameter.requires_grad]
