"""Shards: what one process holds of a tensor, of an optimizer's parameters and of a run's state, and the whole of each.

Whole states, as checkpoints have them, are those of a run of one process. Every process calls what gathers them; what
it need not keep it drops at once, so that no process but the first ever holds more than one whole tensor beside its own
shards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import tensor as distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Placement
from torch.optim.optimizer import StateDict


@dataclass(frozen=True)
class Layout:
    """Where the shards of a tensor are.

    Attributes:
        shape: of the whole.
        mesh: of the processes that share it out; None: each of them has all of it.
    """

    shape: torch.Size
    stride: tuple[int, ...]
    mesh: DeviceMesh | None = None
    placements: tuple[Placement, ...] = ()

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """That of a parameter or buffer."""
        if isinstance(tensor, DTensor):
            return cls(tensor.shape, tensor.stride(), tensor.device_mesh, tensor.placements)
        return cls(tensor.shape, tensor.stride())

    def join(self, shard: Tensor) -> Tensor:
        """A shard as a part of the whole; itself where it is the whole."""
        if self.mesh is None:
            return shard
        kind: Any = DTensor
        joined: Tensor = kind.from_local(
            shard, self.mesh, self.placements, run_check=False, shape=self.shape, stride=self.stride
        )
        return joined

    def whole(self, shard: Tensor) -> Tensor:
        """The whole, in every process. Every process of the mesh calls it."""
        if self.mesh is None:
            return shard
        joined: Any = self.join(shard)
        whole: Tensor = joined.full_tensor()
        return whole

    def empty(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor of this layout without values, distributed where it is in shards."""
        if self.mesh is None:
            return torch.empty(self.shape, dtype=dtype, device=device)
        joined: Tensor = distributed.empty(self.shape, dtype=dtype, device_mesh=self.mesh, placements=self.placements)
        return joined

    def cut(self, whole: Tensor) -> Tensor:
        """This process's shard of the whole, on its device. Nothing is sent."""
        if self.mesh is None:
            return whole
        return local(distributed.distribute_tensor(whole, self.mesh, self.placements, src_data_rank=None))

    def shard_of(self, tensor: Tensor) -> Tensor:
        """This process's shard of a tensor that is either laid out like this already or whole."""
        return local(tensor) if isinstance(tensor, DTensor) else self.cut(tensor)

    def is_shared_out_over(self, dimension: str) -> bool:
        """Whether the processes along that dimension of the mesh hold different shards."""
        names = () if self.mesh is None else self.mesh.mesh_dim_names or ()
        return any(name == dimension and _is_shard(p) for name, p in zip(names, self.placements, strict=True))


def _is_shard(placement: Any) -> bool:
    return not placement.is_replicate() and not placement.is_partial()


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """What this process holds of it, in the same memory."""
    if isinstance(tensor, DTensor):
        held: Tensor = tensor.to_local()
        return held
    return tensor


class Shards:
    """The shards of a model's parameters that an optimizer works on, as tensors like any other.

    A rule that treats each number by itself gives the same for a shard as for the whole, and is spared the cost and the
    restrictions of distributed tensors. Each shard lies in the memory of its parameter.

    Args:
        parameters: in the optimizer's order.
        names: those of the parameters within the model.
        meshes: groups of processes by the dimension of the mesh along which they lie.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], names: Sequence[str], meshes: dict[str, dist.ProcessGroup]
    ) -> None:
        self._parameters, self.names = list(parameters), list(names)
        self.layouts = [Layout.of(parameter) for parameter in parameters]
        self.held = [_shard(parameter) for parameter in parameters]
        self._groups = [(group, self._mask(name)) for name, group in meshes.items() if group.size() > 1]

    def _mask(self, dimension: str) -> Tensor:
        shared_out = [layout.is_shared_out_over(dimension) for layout in self.layouts]
        device = self.held[0].device
        return torch.tensor(shared_out, dtype=torch.bool, device=device)

    @torch.no_grad()
    def sync_gradients(self) -> None:
        """Hand the parameters' gradients over to the shards."""
        for parameter, shard, layout in zip(self._parameters, self.held, self.layouts, strict=True):
            if parameter is shard or parameter.grad is None:
                continue
            gradient = parameter.grad
            if isinstance(gradient, DTensor) and gradient.placements != layout.placements:
                gradient = gradient.redistribute(placements=layout.placements)
            shard.data = local(parameter)  # in case that the parameter was given other memory
            shard.grad = local(gradient)
            parameter.grad = None

    def global_sums(self, sums: Tensor) -> Tensor:
        """Sums (..., P) over the shard of each parameter, as sums over the whole of each. Every process calls it."""
        for group, mask in self._groups:
            along = sums.masked_fill(~mask, 0)
            dist.all_reduce(along, group=group)
            sums = torch.where(mask, along, sums)
        return sums


def _shard(parameter: nn.Parameter) -> nn.Parameter:
    if not isinstance(parameter, DTensor):
        return parameter
    shard = nn.Parameter(local(parameter), requires_grad=parameter.requires_grad)
    shard.full_numel = math.prod(parameter.shape)  # type: ignore[attr-defined] # for whoever counts parameters
    return shard


# Of a shard of the optimizer's parameter of that number, what a checkpoint is to hold in its place.
Gather = Callable[[int, Tensor], Any]


@torch.no_grad()
def weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers of a model by name, one after the other, each whole."""
    for name, tensor in model.state_dict().items():
        yield name, Layout.of(tensor).whole(local(tensor))


@torch.no_grad()
def load_weights(model: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Take from whole weights what this process holds of them.

    Raises:
        RuntimeError: they are not those of such a model.
    """
    own = model.state_dict()
    if own.keys() != given.keys():
        raise RuntimeError(f"weights of another model: {', '.join(sorted(own.keys() ^ given.keys()))}")
    for name, tensor in own.items():
        layout = Layout.of(tensor)
        if layout.shape != given[name].shape:
            raise RuntimeError(f"weights of another model: {name} is {tuple(given[name].shape)}")
        local(tensor).copy_(layout.shard_of(given[name]))


def optimizer_by(gather: Gather, state: StateDict, shards: Shards) -> StateDict:
    """An optimizer's `state_dict`, with what `gather` makes of each shard."""
    gathered = {}
    for index, own in sorted(state["state"].items()):
        shape = shards.held[index].shape
        gathered[index] = {
            key: gather(index, value) if _has_shape(value, shape) else value for key, value in own.items()
        }
    return {**state, "state": gathered}


def cut_optimizer(state: StateDict, shards: Shards) -> StateDict:
    """The part of a whole optimizer's `state_dict` that this process holds."""
    cut = {}
    for index, own in state["state"].items():
        layout = shards.layouts[index]
        cut[index] = {
            key: layout.shard_of(value).clone() if _has_shape(value, layout.shape) else value
            for key, value in own.items()
        }
    return {**state, "state": cut}


def schedule_by(gather: Gather, state: StateDict, schedule: Any) -> None:
    """Put what `gather` makes of each shard into a schedule's `state_dict`."""
    for name in getattr(schedule, "per_parameter", ()):
        state[name] = [gather(index, each) for index, each in enumerate(state[name])]


def cut_schedule(state: StateDict, schedule: Any, shards: Shards) -> None:
    """Undo `schedule_by`."""
    for name in getattr(schedule, "per_parameter", ()):
        if state[name]:
            held = zip(shards.layouts, state[name], shards.held, strict=True)
            state[name] = [layout.shard_of(each).to(shard.device, copy=True) for layout, each, shard in held]


def _has_shape(value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == shape
