"""Rules for matrices treat each matrix of a stack as they treat it alone, and as public ones do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.config import RunConfig
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.optimizers import muon
from ablab.training.optimizers.groups import build_optimizer, describe_groups
from ablab.training.optimizers.muon import MuonWithAdamW, NorMuonWithAdamW, orthogonalised
from ablab.training.optimizers.soap import SoapWithAdamW

LR, DECAY = 0.05, 0.2
Factory = Callable[..., torch.optim.Optimizer]
# In bfloat16, whose numbers have 8 binary digits, and in the parameter's own numbers.
RULES: dict[str, tuple[Factory, float]] = {
    "muon": (MuonWithAdamW, 2e-3),
    "normuon": (NorMuonWithAdamW, 2e-3),
    "soap": (partial(SoapWithAdamW, frequency=2), 1e-9),
    "soap, one side": (partial(SoapWithAdamW, frequency=2, max_size=5), 1e-9),
}


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(make: Factory, start: Tensor, gradients: list[Tensor], group: str) -> Tensor:
    parameter = nn.Parameter(start.clone())
    optimizer = make([{"params": [parameter], "name": group}], lr=LR, weight_decay=DECAY)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(parameter.grad, gradient)
    return parameter.detach()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("rule", RULES)
def test_each_expert_is_trained_as_if_alone(rule: str, shape: tuple[int, int]) -> None:
    """An expert's matrix is (inputs, outputs), where a linear layer's is (outputs, inputs)."""
    make, tolerance = RULES[rule]
    start, gradients = drawn(3, *shape), [drawn(3, *shape, seed=step) for step in range(1, 8)]
    gradients[3][1] = 0  # a step in which no token went to the second expert
    together = trained(make, start, gradients, "experts")
    for expert in range(3):
        alone = trained(make, start[expert].T, [gradient[expert].T for gradient in gradients], "matrices").T
        torch.testing.assert_close(together[expert], alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (7, 7)])
def test_muon_is_pytorchs_to_the_last_bit(shape: tuple[int, int], nesterov: bool) -> None:
    start = drawn(*shape, dtype=torch.float32)
    own, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    groups = [{"params": [own], "name": "matrices"}]
    optimizers = (
        MuonWithAdamW(groups, lr=LR, weight_decay=DECAY, nesterov=nesterov),
        torch.optim.Muon([theirs], lr=LR, weight_decay=DECAY, nesterov=nesterov, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(1, 5):
        for parameter, optimizer in zip((own, theirs), optimizers, strict=True):
            parameter.grad = drawn(*shape, seed=step, dtype=torch.float32)
            optimizer.step()
        assert torch.equal(own, theirs)


@pytest.mark.parametrize("most", [0, 2 * 6 * 9, 2**20])  # numbers at once: each alone, by twos, all
@pytest.mark.parametrize("rule", ["muon", "normuon"])
def test_many_matrices_are_trained_as_if_alone(rule: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablab.training.optimizers.muon._TOGETHER", most)
    make, tolerance = RULES[rule]
    shapes = [(6, 9), (9, 6), (6, 9), (6, 9), (4, 4), (9, 6)]
    parameters = [nn.Parameter(drawn(*shape, seed=place)) for place, shape in enumerate(shapes)]
    gradients = [[drawn(*shape, seed=10 * step + i) for i, shape in enumerate(shapes)] for step in range(1, 5)]
    alone = [
        trained(make, parameter.detach(), [step[place] for step in gradients], "matrices")
        for place, parameter in enumerate(parameters)
    ]
    optimizer = make([{"params": parameters, "name": "matrices"}], lr=LR, weight_decay=DECAY)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    for parameter, expected in zip(parameters, alone, strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=tolerance)


def test_matrices_of_one_shape_are_orthogonalised_in_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in many layers, experts' too; what is large, and one without a gradient, is no part of it."""
    seen: list[tuple[int, ...]] = []

    def unchanged(matrices: Tensor, steps: int) -> Tensor:
        seen.append(tuple(matrices.shape))
        return matrices

    monkeypatch.setattr(muon, "_TOGETHER", 200)
    monkeypatch.setattr(muon, "orthogonalised", unchanged)
    shapes = [(6, 9), (9, 6), (6, 9), (6, 9), (6, 9), (12, 12), (12, 12)]
    matrices = [nn.Parameter(drawn(*shape)) for shape in shapes]
    experts = [nn.Parameter(drawn(3, 4, 5)) for _ in range(2)]
    for parameter in (*matrices, *experts):
        parameter.grad = torch.ones_like(parameter)
    matrices[2].grad = None
    MuonWithAdamW([{"params": matrices, "name": "matrices"}, {"params": experts, "name": "experts"}]).step()
    assert sorted(seen) == [(3, 6, 9), (6, 4, 5), (9, 6), (12, 12), (12, 12)]


def test_singular_values_come_near_one_in_each_matrix_of_a_stack() -> None:
    stack = drawn(4, 12, 30) * torch.tensor([1e-3, 1.0, 50.0, 0.0]).view(4, 1, 1)
    values = torch.linalg.svdvals(orthogonalised(stack, 5).double())
    assert ((values[:3] > 0.6) & (values[:3] < 1.3)).all()  # as the published coefficients leave them
    assert (values[3] == 0).all()  # of an expert that had no token


def test_normuon_gives_each_neuron_and_the_matrix_the_size_of_adamws_steps() -> None:
    """After one step. Muon leaves the sizes of neurons apart."""
    wild = drawn(24, 16) * torch.logspace(-2, 1, 24, dtype=torch.float64)[:, None]
    for make, even in ((NorMuonWithAdamW, True), (MuonWithAdamW, False)):
        moved = trained(partial(make, betas=(0.9, 0.95)), torch.zeros(24, 16, dtype=torch.float64), [wild], "matrices")
        sizes = moved.square().mean(1).sqrt() / LR
        assert torch.allclose(sizes, torch.full_like(sizes, 0.2), rtol=1e-3) == even


def naive_soap(w: Tensor, given: list[Tensor], *, betas: tuple[float, float], eps: float, frequency: int) -> Tensor:
    """Vyas et al. 2024, algorithm 3, with the first average kept in the bases, and so turned with them."""
    left, right = ((1 - betas[1]) * gram for gram in (given[0] @ given[0].T, given[0].T @ given[0]))
    ranks = (1e-3 * gram.diagonal().mean() * torch.linspace(1, 0, len(gram)).double().diag() for gram in (left, right))
    u, v = (
        torch.linalg.eigh(gram + rank).eigenvectors.flip(1) for gram, rank in zip((left, right), ranks, strict=True)
    )
    m, s = torch.zeros_like(w), torch.zeros_like(w)
    w = w * (1 - LR * DECAY)
    for step, g in enumerate(given[1:], start=1):
        turned = u.T @ g @ v
        m, s = betas[0] * m + (1 - betas[0]) * turned, betas[1] * s + (1 - betas[1]) * turned**2
        adam = (m / (1 - betas[0] ** step)) / ((s / (1 - betas[1] ** step)).sqrt() + eps)
        w = w - LR * (u @ adam @ v.T + DECAY * w)
        left, right = (betas[1] * a + (1 - betas[1]) * b for a, b in ((left, g @ g.T), (right, g.T @ g)))
        if step % frequency == 0:
            m = u @ m @ v.T
            by_row, by_column = (torch.diag(q.T @ a @ q).argsort(descending=True) for q, a in ((u, left), (v, right)))
            s = s[by_row][:, by_column]
            u, v = torch.linalg.qr(left @ u[:, by_row]).Q, torch.linalg.qr(right @ v[:, by_column]).Q
            m = u.T @ m @ v
    return w


# Often enough for several updates of the bases, of gradients that are enough for a longer side.
@pytest.mark.parametrize(("shape", "frequency"), [((5, 5), 1), ((5, 5), 3), ((6, 4), 3), ((4, 6), 3)])
def test_soap_by_its_formula(shape: tuple[int, int], frequency: int) -> None:
    start, gradients = drawn(*shape), [drawn(*shape, seed=step) for step in range(1, 9)]
    make = partial(SoapWithAdamW, betas=(0.8, 0.9), eps=1e-6, frequency=frequency)
    expected = naive_soap(start, gradients, betas=(0.8, 0.9), eps=1e-6, frequency=frequency)
    torch.testing.assert_close(trained(make, start, gradients, "matrices"), expected, rtol=0, atol=1e-7)


def test_soap_without_bases_is_adamw() -> None:
    """From the second gradient on: the first one makes the bases and nothing else."""
    start, gradients = drawn(6, 4), [drawn(6, 4, seed=step) for step in range(1, 6)]
    whole = trained(partial(SoapWithAdamW, max_size=1), start, gradients, "matrices")
    rest = trained(partial(torch.optim.AdamW, betas=(0.95, 0.95)), start * (1 - LR * DECAY), gradients[1:], "any")
    torch.testing.assert_close(whole, rest)


@pytest.mark.parametrize("rule", RULES)
def test_weights_in_bfloat16_are_trained(rule: str) -> None:
    gradients = [drawn(3, 6, 4, seed=step, dtype=torch.bfloat16) for step in range(1, 6)]
    moved = trained(RULES[rule][0], torch.ones(3, 6, 4, dtype=torch.bfloat16), gradients, "experts")
    assert moved.dtype == torch.bfloat16
    assert moved.isfinite().all()
    assert not (moved == 1).all(-1).any()


@pytest.mark.parametrize(("option", "rule"), [("muon", "Muon"), ("normuon", "NorMuon"), ("soap", "Soap")])
def test_experts_are_matrices_and_tables_and_kernels_are_not(
    option: str, rule: str, tiny_config: Callable[..., RunConfig]
) -> None:
    config = tiny_config(f"optimizer={option}", "feed_forward=moe", "model.tie_embeddings=false")
    model = build_model(config, build_task(config))
    model.kernel = nn.Conv1d(3, 3, 2)
    groups = describe_groups(build_optimizer(RULES[option][0], model))
    assert [(group["name"], group["optimizer"], group["tensors"]) for group in groups[:4]] == [
        ("matrices", rule, 4 + 2 + 1),  # attention, the shared expert, the router
        ("experts", rule, 2),
        ("matrices", "AdamW", 1),
        ("head", "AdamW", 1),
    ]
    assert sum(group["parameters"] for group in groups) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"frequency": 0}, "frequency=0 must be at least 1"),
        ({"max_size": 0}, "max_size=0 must be at least 1"),
        ({"betas": (1.0, 0.9)}, r"betas\[0\]=1.0 must be"),
        ({"eps": -1.0}, "eps=-1.0 must be at least 0"),
        ({"lr": -1.0}, "lr=-1.0 must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SoapWithAdamW([nn.Parameter(torch.zeros(2, 2))], **settings)


@pytest.mark.parametrize(
    ("words", "name", "group"),
    [
        (("residual=hyper",), "attention_residual.mix", "not_decayed"),
        (("residual=hyper",), "attention_residual.moving", "matrices"),
        (("residual=mhc",), "feed_forward_residual.weight", "matrices"),
        (("attention=hca",), "attention.compressor.place", "not_decayed"),
        (("attention=gated_delta",), "attention.convolution.weight", "kernels"),
        (("attention=mamba2",), "attention.convolution.weight", "kernels"),
        (("attention=dynamic", "attention.span_per_query=true"), "attention.core.span.direction", "kernels"),
        (("feed_forward=moe",), "feed_forward.router.weight", "matrices"),
    ],
)
def test_what_dimensions_do_not_tell_components_say(
    words: tuple[str, ...], name: str, group: str, tiny_config: Callable[..., RunConfig]
) -> None:
    """A rule for matrices gets those alone that map features to something, and nothing static decays."""
    config = tiny_config(*words, "optimizer=muon")
    model = build_model(config, build_task(config))
    parameter = model.get_parameter(f"blocks.0.{name}")
    groups = build_optimizer(RULES["muon"][0], model).param_groups
    (own,) = [each for each in groups if any(other is parameter for other in each["params"])]
    assert own["name"] == group
    assert own["rule"] == ("Muon" if group == "matrices" else "AdamW")
    assert (own["weight_decay"] == 0) == (group == "not_decayed")
