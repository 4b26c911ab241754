"""Processes that hold shards of the model: shares of every parameter, heads and hidden units, or both.

They stand in a mesh of two dimensions. Along "data_parallel" they have other samples, and each holds a share of every
parameter, which is gathered where it is used (`fully_shard`). Along "tensor_parallel" they have the same samples, and
each computes some heads and hidden units of every layer (`parallelize_module`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from ablab.config.run_config import GRAPHS, Compile
from ablab.model import ranks
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer
from ablab.training.checkpoint_folders import CheckpointFiles, Shard, read_folder
from ablab.training.optimizers.elementwise import is_elementwise
from ablab.training.strategies import shards as state_of
from ablab.training.strategies.base import Model, Parallel
from ablab.training.strategies.data_parallel import require_several
from ablab.training.strategies.plans import check_sharding, check_tensor_parallel, shard, share_layers_out
from ablab.training.strategies.shards import Layout, Shards, local

DATA, TENSOR = "data_parallel", "tensor_parallel"
Form = Literal["full", "sharded"]
_PREFIX = "model."  # of the model's weights among the module's


class Mesh(Parallel, ModelParallelStrategy):
    """Lightning's ModelParallelStrategy, with this package's models, checkpoints and measurements.

    The optimizer works on what a process holds of each parameter as on tensors of their own, so it must treat each
    number by itself. Gradients are those of the mean over the samples of all processes.

    Args:
        processes: of the run on one machine.
        tensor_parallel_size: processes that share out the heads and hidden units of each layer.
        reshard_after_forward: let go of a block's gathered weights after its forward pass, and gather them again for
            the backward pass; false keeps them, for more memory and fewer bytes sent.
        checkpoint: "full": one file, gathered by the first process, as a run of one process writes it, so that every
            strategy and tool reads it; "sharded": a folder to which each process writes what it holds, for models that
            no process can hold whole. `ablab consolidate` makes the first of the second.

    Raises:
        ValueError: fewer than two processes, or sizes that do not fit them.
    """

    holds_all = False
    lightning_restore_optimizer = True  # by the methods below, from the form that every strategy writes

    def __init__(
        self,
        *,
        processes: int,
        tensor_parallel_size: int,
        reshard_after_forward: bool = True,
        checkpoint: Form = "full",
    ) -> None:
        require_several(processes)
        if checkpoint not in ("full", "sharded"):
            raise ValueError(f"strategy.checkpoint={checkpoint}: must be full or sharded")
        if tensor_parallel_size < 1 or processes % tensor_parallel_size:
            raise ValueError(
                f"tensor_parallel_size={tensor_parallel_size} does not divide the number of processes, "
                f"trainer.devices={processes}"
            )
        super().__init__(
            data_parallel_size=processes // tensor_parallel_size,
            tensor_parallel_size=tensor_parallel_size,
            save_distributed_checkpoint=False,
        )
        self._mesh: DeviceMesh | None = None
        self.checkpoint = checkpoint
        self.tp_size = tensor_parallel_size
        self._processes = processes
        self._reshard_after_forward = reshard_after_forward
        self._shards: Shards | None = None
        self._left_whole: list[nn.Parameter] = []
        self._is_parallelized = False

    # What the training loop asks.

    def dp_size(self, processes: int) -> int:
        return processes // self.tp_size

    def dp_rank(self, rank: int) -> int:
        return rank // self.tp_size

    def check_model(self, model: nn.Module) -> None:
        assert isinstance(model, Transformer)
        if self.tp_size > 1:
            check_tensor_parallel(model, self.tp_size)
        if self._processes > self.tp_size:
            check_sharding(model)

    def check_compile(self, asked: Compile) -> None:
        if self.tp_size > 1:
            raise ValueError("weights are cut within the blocks, and what is sent there is no part of a graph")
        if asked == GRAPHS:
            raise ValueError("weights are gathered anew for each pass, and CUDA graphs need them where they were")

    def check_optimizer(self, factory: Callable[..., Optimizer]) -> None:
        if not is_elementwise(factory):
            raise ClashError("strategy", "optimizer", "it needs whole matrices, and each process holds shards of them")

    def parallelize(self, model: nn.Module) -> None:
        if self._is_parallelized:
            return
        assert isinstance(model, Transformer)
        self._is_parallelized = True
        model.to(self.root_device)
        if self.tp_size > 1:
            share_layers_out(model, self.device_mesh[TENSOR])
        if self.device_mesh[DATA].size() > 1:
            settings = {"reshard_after_forward": self._reshard_after_forward}
            self._left_whole = shard(model, self.device_mesh[DATA], **settings)

    def wrap_optimizer(self, optimizer: Optimizer) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        groups = {name: self.device_mesh[name].get_group() for name in (DATA, TENSOR)}
        names = {id(parameter): name for name, parameter in self._trained.named_parameters()}
        self._shards = Shards(parameters, [names[id(parameter)] for parameter in parameters], groups)
        held = iter(self._shards.held)
        for group in optimizer.param_groups:
            group["params"] = [next(held) for _ in group["params"]]
        optimizer.global_sums = self._shards.global_sums  # type: ignore[attr-defined] # for a schedule that sums

    def sync_gradients(self) -> None:
        for parameter in self._left_whole:
            if parameter.grad is not None:
                group = self.device_mesh[DATA].get_group()
                dist.all_reduce(parameter.grad, group=group)
                parameter.grad /= group.size()
        self.shards.sync_gradients()

    def global_norm(self, norms: Tensor) -> Tensor:
        return self.shards.global_sums(norms.square()).sum().sqrt()

    @contextlib.contextmanager
    def unsharded(self, model: nn.Module) -> Iterator[None]:
        for module in _sharded(model):
            module.unshard()
        try:
            yield
        finally:
            self.reshard(model)

    def reshard(self, model: nn.Module) -> None:
        # What the last pass has left gathered would be used by the next one, however the weights have changed.
        for module in _sharded(model):
            module.reshard()

    def full_model(self, model: Model, build: Callable[[], Model]) -> Model:
        self.reshard(model)
        state, whole = state_of.weights(model), build()
        whole.load_state_dict({name: value.cpu() for name, value in state})
        return whole.to(self.root_device)

    def mechanism(self) -> dict[str, float]:
        """The two sizes of the mesh, and the share of all parameters' numbers that this process holds."""
        data, parts = self.device_mesh[DATA].size(), self.device_mesh[TENSOR].size()
        shards = self.shards
        held, whole = sum(each.numel() for each in shards.held), sum(math.prod(each.shape) for each in shards.layouts)
        return {"data_parallel_size": float(data), "tensor_parallel_size": float(parts), "share_held": held / whole}

    @property
    def shards(self) -> Shards:
        """What the optimizer works on; there once it is."""
        assert self._shards is not None
        return self._shards

    @property
    def _trained(self) -> nn.Module:
        assert self.lightning_module is not None
        model = self.lightning_module.model
        assert isinstance(model, nn.Module)
        return model

    # What Lightning asks.

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        sharded = _sharded(self._trained)
        for module in sharded:
            module.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for module in sharded:
                module.set_requires_gradient_sync(True, recurse=False)

    def setup_environment(self) -> None:
        super().setup_environment()
        if self._mesh is None:  # in later stages of the run its groups are those that the model's shards lie in
            self._mesh = super().device_mesh
        ranks.set_groups(data=self.device_mesh[DATA].get_group(), tensor=self.device_mesh[TENSOR].get_group())

    @property
    def device_mesh(self) -> DeviceMesh:
        return super().device_mesh if self._mesh is None else self._mesh

    def teardown(self) -> None:
        ranks.forget_groups()
        super().teardown()

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        # Processes that have the same samples have the same sums of them.
        return super().reduce(tensor, self.device_mesh[DATA].get_group() if group is None else group, reduce_op)

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        given = torch.tensor(int(decision), device=self.root_device)
        agreed = int(super().reduce(given, dist.group.WORLD, "sum"))
        return agreed == self.world_size if all else agreed > 0

    def lightning_module_state_dict(self) -> StateDict:
        self.reshard(self._trained)
        if self.checkpoint == "sharded":
            own = self._trained.state_dict()
            return {_PREFIX + name: _as_shard(Layout.of(each), local(each), name) for name, each in own.items()}
        state = state_of.weights(self._trained)
        return {_PREFIX + name: value.cpu() for name, value in state if self.is_global_zero}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        self.reshard(self._trained)
        given = {name.removeprefix(_PREFIX): value for name, value in checkpoint["state_dict"].items()}
        state_of.load_weights(self._trained, given)

    def optimizer_state(self, optimizer: Optimizer) -> StateDict:
        optimizer = getattr(optimizer, "optimizer", optimizer)  # Lightning's wrapper of it
        return state_of.optimizer_by(self._gather, optimizer.state_dict(), self.shards)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state_of.cut_optimizer(state, self.shards))

    def save_checkpoint(self, checkpoint: StateDict, filepath: Any, storage_options: Any = None) -> None:
        # A callback may ask for weights alone, where there are none.
        for schedule, config in zip(checkpoint.get("lr_schedulers", ()), self._schedules(), strict=False):
            state_of.schedule_by(self._gather, schedule, config)
        files = self.checkpoint_io
        if self.checkpoint == "sharded":
            assert isinstance(files, CheckpointFiles)
            files.save_shards(checkpoint, filepath, storage_options)
        elif self.is_global_zero:
            files.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> StateDict:
        if Path(checkpoint_path).is_dir():
            checkpoint = read_folder(Path(checkpoint_path), self._place)
        else:
            checkpoint = self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)
        for schedule, config in zip(checkpoint.get("lr_schedulers", ()), self._schedules(), strict=False):
            state_of.cut_schedule(schedule, config, self.shards)
        return checkpoint

    def _gather(self, index: int, shard: Tensor) -> Any:
        """What a checkpoint holds of a shard of the optimizer's parameter of that number."""
        layout = self.shards.layouts[index]
        if self.checkpoint == "sharded":
            return _as_shard(layout, shard, self.shards.names[index])
        whole = layout.whole(shard)
        return whole.cpu() if self.is_global_zero else None  # the others need not keep it

    def _place(self, parameter: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return Layout.of(self._trained.get_parameter(parameter)).empty(dtype, self.root_device)

    def _schedules(self) -> list[Any]:
        return [config.scheduler for config in self.lr_scheduler_configs]


def _as_shard(layout: Layout, shard: Tensor, parameter: str) -> Any:
    return shard if layout.mesh is None else Shard(layout.join(shard), parameter)


def _sharded(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
