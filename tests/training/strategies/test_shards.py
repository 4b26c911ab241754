"""Shards lie where their layout says, whatever the sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore

from ablab.training.strategies.shards import Layout, Shards, local


@pytest.fixture
def rank() -> Iterator[int]:
    """One of eight processes, of which there is this one alone: whatever is sent gets nowhere.

    Always the same: torch remembers where in a mesh it is for as long as the interpreter lives.
    """
    dist.init_process_group("fake", store=FakeStore(), rank=6, world_size=8)
    yield 6
    dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (8, 1)])
@pytest.mark.parametrize("width", [8, 12, 20])  # 20 is shared out unequally, 8 by eight is one each, 12 leaves some out
def test_a_piece_is_where_its_layout_says(rank: int, shape: tuple[int, int], width: int) -> None:
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "tensor"))
    model = nn.Sequential(nn.Linear(5, width), nn.Linear(width, 6), nn.LayerNorm(6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter))
    whole = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    if shape[1] > 1:
        plan = {"0": ColwiseParallel(), "1": RowwiseParallel()}
        parallelize_module(model, mesh["tensor"], plan, src_data_rank=None)
    fully_shard(model, mesh=mesh["data"])
    for name, parameter in model.named_parameters():
        layout = Layout.of(parameter)
        assert layout.shape == whole[name].shape
        assert torch.equal(layout.cut(whole[name]), local(parameter)), name
        assert layout.empty(torch.float32, torch.device("cpu")).shape == layout.shape
        assert layout.is_shared_out_over("data")
    cut = {name for name, p in model.named_parameters() if Layout.of(p).is_shared_out_over("tensor")}
    assert cut == ({"0.weight", "0.bias", "1.weight"} if shape[1] > 1 else set())


def test_the_optimizer_s_shards_are_the_parameters_own_memory(rank: int) -> None:
    mesh = init_device_mesh("cpu", (8, 1), mesh_dim_names=("data", "tensor"))
    model = nn.Linear(5, 16)
    fully_shard(model, mesh=mesh["data"])
    shards = Shards(list(model.parameters()), ["weight", "bias"], {"data": mesh["data"].get_group()})
    for shard, parameter in zip(shards.held, model.parameters(), strict=True):
        assert type(shard) is nn.Parameter
        tagged: Any = shard
        assert tagged.full_numel == parameter.numel() == 8 * shard.numel()
        with torch.no_grad():
            shard.fill_(rank)
        assert (local(parameter) == rank).all()
