"""A model at work, and what is seen of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.mechanism import MechanismProbe
from ablab.model.transformer import Transformer


@pytest.fixture(scope="session")
def tokens() -> Callable[..., Tensor]:
    """tokens(batch, length, seed=0)"""

    def make(batch: int, length: int, seed: int = 0) -> Tensor:
        return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def watch() -> Callable[..., dict[str, float]]:
    """watch(model, *batches): the figures after these batches."""

    def run(model: Transformer, *batches: Tensor) -> dict[str, float]:
        probe = MechanismProbe(model)
        probe.attach()
        with torch.no_grad():
            for batch in batches:
                model(batch)
        probe.detach()
        return probe.metrics()

    return run


@pytest.fixture(scope="session")
def uniform() -> Callable[[Any], Any]:
    """No queries: full attention weighs all keys alike, so that shares of mass are shares of keys."""

    def make(model: Transformer) -> Transformer:
        for block in model.blocks:
            nn.init.zeros_(block.attention.query.weight)
        return model

    return make


@pytest.fixture(scope="session")
def silence() -> Callable[[Transformer, int, list[int]], None]:
    """silence(model, layer, units): these hidden units are always zero after ReLU, all others of the layer never."""

    def make(model: Transformer, layer: int, units: list[int]) -> None:
        up = model.blocks[layer].feed_forward.up
        nn.init.zeros_(up.weight)
        nn.init.ones_(up.bias)
        with torch.no_grad():
            up.bias[units] = -1

    return make
