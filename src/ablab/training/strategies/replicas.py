"""Data parallel training whose processes hold the whole model each, and send what a subclass says when it says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from ablab.training.strategies.base import Parallel
from ablab.training.strategies.data_parallel import require_several


class FlatMean:
    """The mean of tensors over all processes, on its way: one all-reduce for each type of number.

    Every process makes it of as many tensors, of the same shapes.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._like = list(tensors)
        self._of_dtype: dict[torch.dtype, list[int]] = defaultdict(list)
        for place, tensor in enumerate(tensors):
            self._of_dtype[tensor.dtype].append(place)
        self._flat = {
            dtype: torch.cat([tensors[place].detach().flatten() for place in places])
            for dtype, places in self._of_dtype.items()
        }
        self._works = [dist.all_reduce(flat, async_op=True) for flat in self._flat.values()]

    def wait(self) -> list[Tensor]:
        """The means, in the order and shapes of the tensors."""
        for work in self._works:
            assert work is not None
            work.wait()
        self._works = []
        means = list(self._like)
        for dtype, places in self._of_dtype.items():
            flat = self._flat[dtype] / dist.get_world_size()
            for place, part in zip(places, flat.split([self._like[p].numel() for p in places]), strict=True):
                means[place] = part.view_as(self._like[place])
        return means


@torch.no_grad()
def assign(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy each value into its target."""
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)


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
