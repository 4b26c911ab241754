"""Two processes with unequal data must know what one process with all of it would know."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ablab.model.activation.dynamic_sparse import DynamicSparse
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.mechanism import MechanismProbe
from ablab.model.position import NoPosition
from ablab.model.ranks import sum_over_ranks
from ablab.model.transformer import Transformer

# Sequences of four, per process. The second has nothing to evaluate, and must not keep the first waiting.
TRAINED = [slice(0, 3), slice(3, 4)]
EVALUATED = [slice(0, 3), slice(3, 3)]


def work(trained: slice, evaluated: slice) -> tuple[list[float], dict[str, float]]:
    """Averages and scales after two steps of training, and the metrics of an evaluation."""
    tokens = torch.randint(11, (3, 4, 12), generator=torch.Generator().manual_seed(0))
    model = Transformer(
        vocab_size=11,
        max_length=12,
        seed=0,
        d_model=16,
        n_heads=2,
        n_layers=2,
        attention=partial(WindowedAttention, window=5),
        activation=partial(DynamicSparse, alpha=0.5, initial=0.01, scale=1.0, per_channel=True, target_sparsity=0.8),
        position=NoPosition,
    )
    model(tokens[0, trained])
    model(tokens[1, trained])
    blocks: list[Any] = list(model.blocks)
    activations = [block.feed_forward.activation for block in blocks]
    averages = [value for each in activations for value in [*each.average.tolist(), each.scale.item()]]
    probe = MechanismProbe(model.eval())
    probe.attach()
    if evaluated.start < evaluated.stop:
        model(tokens[2, evaluated])
    probe.detach()
    return averages, probe.metrics()


def process(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    assert sum_over_ranks(torch.tensor([rank + 1])).item() == 3
    torch.save(work(TRAINED[rank], EVALUATED[rank]), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_agree_with_each_other_and_with_one_process(tmp_path: Path) -> None:
    mp.start_processes(process, args=(tmp_path,), nprocs=2, start_method="fork")  # which has imported all
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second
    averages, metrics = work(slice(0, 4), slice(0, 3))
    assert first[0] == pytest.approx(averages, rel=1e-6)
    assert first[1] == pytest.approx(metrics, rel=1e-6)


def test_one_process_sums_to_itself() -> None:
    assert sum_over_ranks(torch.tensor([2, 3])).tolist() == [2, 3]
