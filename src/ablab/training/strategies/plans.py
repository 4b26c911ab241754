"""How a model is cut among processes: heads and hidden units (tensor parallel), and the rest of it (fully sharded)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.distributed.tensor.parallel.style import ParallelStyle

from ablab.config.axes import called_by, load
from ablab.model.attention.base import AttentionCore
from ablab.model.attention.layer import MultiHeadAttention
from ablab.model.draws import draw_apart
from ablab.model.feed_forward.base import Dense
from ablab.model.protocols import Penalised, PenalisedByPass, offering
from ablab.model.ranks import tp_rank, tp_size
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer


def check_tensor_parallel(model: Transformer, count: int) -> None:
    """Whether the heads and hidden units of each layer can be shared out among `count` processes.

    Raises:
        ClashError: a component is more than the sum of its heads or units.
        ValueError: their number is not a multiple of `count`.
    """
    for _, block in model.layers():
        layer, feed_forward = block.attention, block.feed_forward
        # A kind of its own may have projections of its own.
        if isinstance(layer.core, AttentionCore) and layer.core.sinks is not None:
            raise ClashError("strategy", "attention", "attention.sinks=true has a number per head")
        if type(layer) is not MultiHeadAttention or not layer.core.by_head or list(layer.core.parameters()):
            raise ClashError("strategy", "attention", "its heads do not work apart from one another")
        if not isinstance(feed_forward, Dense):
            raise ClashError("strategy", "feed_forward", "its hidden units do not work apart from one another")
        if not feed_forward.by_unit:
            raise ClashError("strategy", "activation", "its hidden units do not work apart from one another")
        heads, kv_heads = model.n_heads, layer.value.out_features // layer.head_size
        if block.attention_residual.shares:
            raise ClashError("strategy", "residual", "its weights see the values of some heads only in each process")
        sizes = {
            "model.n_heads": heads,
            "model.n_kv_heads": kv_heads,
            "model.d_ff": feed_forward.down.in_features,
        }
        for name, size in sizes.items():
            if size % count:
                raise ValueError(f"{name}={size} cannot be shared out among {count} processes (tensor parallel)")


def share_layers_out(model: Transformer, mesh: DeviceMesh) -> None:
    """Leave this process its heads and hidden units (Shoeybi et al. 2019, "Megatron-LM", section 3).

    Projections to heads and hidden units are cut by their outputs, those back to the stream by their inputs. What is
    added to the stream is summed over the processes, so that all of them have the same stream.
    """
    for layer, block in model.layers():
        attention, feed_forward = block.attention, block.feed_forward
        assert isinstance(attention, MultiHeadAttention)
        to_heads = ("query", "value") if attention.share_qk else ("query", "key", "value")
        to_heads = to_heads if attention.output_gate is None else (*to_heads, "output_gate")
        columns: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in to_heads}
        # Factors that all heads share: each process sees its own heads, and gradients are summed.
        norms = {name: SequenceParallel(sequence_dim=1, use_local_output=True) for name in _norms_of(attention)}
        parallelize_module(attention, mesh, {**columns, **norms, "output": RowwiseParallel()}, src_data_rank=None)
        parallelize_module(feed_forward, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()}, src_data_rank=None)
        attention.register_forward_pre_hook(partial(_distribute, mesh))
        _give_slopes(attention.core)
        if attention.core.dropout:
            # Each process drops other features or weights of its heads than the others do of theirs; outside of the
            # core all of them draw the same.
            draw_apart(attention.core, "heads", layer, tp_rank())


def _norms_of(attention: MultiHeadAttention) -> list[str]:
    norms = {"query_norm": attention.query_norm, "key_norm": attention.key_norm}
    return [name for name, norm in norms.items() if norm is not None]


def _distribute(mesh: DeviceMesh, module: nn.Module, args: Any) -> Any:
    """The stream as one distributed tensor for all projections, whose gradients are then summed in one go."""
    return DTensor.from_local(args[0], mesh, [Replicate()], run_check=False), *args[1:]


def _give_slopes(core: AttentionCore) -> None:
    for module in core.modules():
        if isinstance(module, AttentionCore) and module.slopes is not None:
            module.slopes = module.slopes.chunk(tp_size())[tp_rank()].clone()


def check_sharding(model: Transformer) -> None:
    """Raises ClashError if a component uses its weights outside of a pass through the model."""
    for name, module in offering(model, Penalised):
        if not (isinstance(module, PenalisedByPass) and module.penalty_of_pass):
            raise ClashError(
                "strategy", axis_of(model, name), "its penalty asks for weights that no process has in one piece"
            )


def axis_of(model: Transformer, name: str) -> str:
    """Return the axis of the innermost component that the module of that name is, or is a part of."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = model.get_submodule(".".join(parts[:count]))
        for axis in called_by("model", "multimodal"):
            kinds = tuple(kind for kind in map(load, axis.kinds) if kind is not nn.Module)  # which everything is
            if parts[count - 1] == axis.name or isinstance(module, kinds):
                return axis.name
    return name


def shard(model: Transformer, mesh: DeviceMesh, *, reshard_after_forward: bool) -> list[nn.Parameter]:
    """Leave this process its share of every parameter (Zhao et al. 2023; PyTorch's `fully_shard`).

    Weights are gathered for one block at a time, and those outside of the blocks for the whole pass. Where blocks are
    not called once each and as a whole, all are gathered for the whole pass.

    Returns:
        Parameters that are left whole in every process, since a single number cannot be cut.
    """
    numbers = [parameter for parameter in model.parameters() if not parameter.dim()]
    settings: dict[str, Any] = {"mesh": mesh, "ignored_params": set(numbers)}
    if model.each_block_once:
        for _, block in model.layers():
            fully_shard(block, reshard_after_forward=reshard_after_forward, **settings)
    fully_shard(model, reshard_after_forward=False, **settings)
    return numbers
