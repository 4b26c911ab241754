from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablab.model.initialisation import initialise, keyed_generator
from ablab.model.spec import ClashError, LayerSpec
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]


def test_generators_are_pinned_across_versions_and_machines() -> None:
    assert keyed_generator("lsh", 1, 2, "evaluation").initial_seed() == 1391463264027398899


def test_keys_do_not_run_into_each_other() -> None:
    keys: list[tuple[int | str, ...]] = [("a", 1), ("a", "1"), ("a1",), ("a", 1, 0), (1, "a")]
    assert len({keyed_generator(*key).initial_seed() for key in keys}) == len(keys)


def test_same_name_and_shape_means_same_bits_in_every_variant(build: Build, menu: dict[str, list[str]]) -> None:
    """Every option, the other axes as by default, and combinations of all axes by lot."""
    met: dict[tuple[str, torch.Size], Tensor] = {}
    shared = 0
    axes: dict[str, list[Any]] = {**menu, "tie_embeddings": [True, False]}
    del axes["modal_fusion"]  # which needs several modalities
    choices = [{axis: option} for axis, options in axes.items() for option in options]
    draw = random.Random(0)
    choices += [{axis: draw.choice(options) for axis, options in axes.items()} for _ in range(150)]
    for choice in choices:
        try:
            model = build(**choice)
        except ClashError:
            continue
        for name, parameter in model.named_parameters():
            first = met.setdefault((name, parameter.shape), parameter)
            assert torch.equal(first, parameter), f"{name} differs under {choice}"
            shared += first is not parameter
    assert shared > len(met)


def test_the_same_across_modal_fusions(build_modal: Build, menu: dict[str, list[str]]) -> None:
    met: dict[tuple[str, torch.Size], Tensor] = {}
    for option, positions in itertools.product(menu["modal_fusion"], ["learned", "rope"]):
        for name, parameter in build_modal(modal_fusion=option, position=positions).named_parameters():
            assert torch.equal(met.setdefault((name, parameter.shape), parameter), parameter), f"{name} in {option}"


def test_depth_changes_only_what_is_scaled_by_depth(build: Build) -> None:
    shallow, deep = dict(build(n_layers=1).named_parameters()), dict(build(n_layers=4).named_parameters())
    for name, parameter in shallow.items():
        scale = 2 if name.endswith(("output.weight", "down.weight")) else 1  # sqrt(2 * 4) / sqrt(2 * 1)
        torch.testing.assert_close(parameter, scale * deep[name], rtol=1e-6, atol=0)


def test_gpt2_rule(build: Build) -> None:
    model = build(d_model=128, n_layers=8, vocab_size=50)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            expected = 0.02 / math.sqrt(16) if name.endswith(("output.weight", "down.weight")) else 0.02
            error = expected / math.sqrt(2 * parameter.numel())  # of the standard deviation of that many draws
            assert abs(parameter.std().item() - expected) < 5 * error, name


def test_seed_changes_every_drawn_parameter_and_no_two_are_alike(build: Build) -> None:
    drawn = [p.flatten() for seed in (0, 1) for n, p in build(seed=seed).named_parameters() if p.ndim > 1]
    for one, other in itertools.combinations(drawn, 2):
        n = min(len(one), len(other))
        assert not torch.equal(one[:n], other[:n])


def test_building_neither_reads_nor_moves_the_global_generators(build: Build) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist(), torch.get_rng_state()
    first = build(attention="lsh")
    assert random.getstate() == before[0]
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    torch.manual_seed(2)
    second = build(attention="lsh")
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name)), name
    models: list[Any] = [first, second]
    one, other = (each.blocks[0].attention.core.hash.rotations for each in models)
    assert torch.equal(one, other)


class Gate(nn.Module):
    """A component of a user's own: a vector that its constructor draws, and a matrix with a rule."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(spec.d_ff))
        self.matrix = nn.Parameter(torch.empty(2, 3))

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        if name == "matrix":
            parameter.uniform_(5, 6, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.vector


def test_a_component_initialises_its_own_parameters(build: Build) -> None:
    torch.manual_seed(3)
    model: Any = build(activation=Gate)
    first = model.blocks[1].feed_forward.activation
    torch.manual_seed(4)
    model = build(activation=Gate)
    second = model.blocks[1].feed_forward.activation
    assert 5 <= first.matrix.min() <= first.matrix.max() <= 6
    assert torch.equal(first.matrix, second.matrix)
    assert torch.equal(first.vector, second.vector)  # the constructor's draw, a function of the seed alone
    assert first.vector.any()


def test_values_do_not_depend_on_the_precision_of_the_model() -> None:
    single, double = nn.Linear(5, 7), nn.Linear(5, 7, dtype=torch.float64)
    initialise(single, 4)
    initialise(double, 4)
    assert torch.equal(single.weight.double(), double.weight)
    assert not single.bias.any()
