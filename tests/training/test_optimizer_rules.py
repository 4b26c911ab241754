"""Every rule against its formula, written out naively in float64 for three steps, with the menu's own settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schedulefree
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from ablab.config import RunConfig, conf_folder
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.generation import load_run
from ablab.training.optimizers.groups import build_optimizer

OPTIONS = sorted(path.stem for path in (conf_folder() / "optimizer").glob("*.yaml"))
STEPS = 3
Naive = Callable[..., Tensor]


def settings_of(option: str) -> dict[str, Any]:
    loaded: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "optimizer" / f"{option}.yaml"))
    found: dict[str, Any] = loaded
    return found


def gradients(shape: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def adam(w: Tensor, given: list[Tensor], *, lr: float, betas: list[float], eps: float, l2: float = 0.0) -> Tensor:
    """Kingma and Ba 2015, algorithm 1."""
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for step, g in enumerate(given, start=1):
        g = g + l2 * w
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        w = w - lr * (m / (1 - betas[0] ** step)) / ((v / (1 - betas[1] ** step)).sqrt() + eps)
    return w


def naive_adam(w: Tensor, given: list[Tensor], *, weight_decay: float, **rest: Any) -> Tensor:
    return adam(w, given, l2=weight_decay, **{key: rest[key] for key in ("lr", "betas", "eps")})


def naive_adamw(
    w: Tensor, given: list[Tensor], *, weight_decay: float, lr: float, betas: list[float], eps: float, **rest: Any
) -> Tensor:
    """Loshchilov and Hutter 2019, algorithm 2: the decay passes by the averages."""
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for step, g in enumerate(given, start=1):
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        adapted = (m / (1 - betas[0] ** step)) / ((v / (1 - betas[1] ** step)).sqrt() + eps)
        w = w - lr * (adapted + weight_decay * w)
    return w


def naive_sgd(
    w: Tensor, given: list[Tensor], *, lr: float, momentum: float, weight_decay: float, **rest: Any
) -> Tensor:
    """Nesterov's momentum as Sutskever et al. 2013 rewrite it: a look ahead along what the momentum has become."""
    m = torch.zeros_like(w)
    for g in given:
        g = g + weight_decay * w
        m = momentum * m + g
        w = w - lr * (g + momentum * m)
    return w


def naive_lion(
    w: Tensor, given: list[Tensor], *, lr: float, betas: list[float], weight_decay: float, **cautious: bool
) -> Tensor:
    """Chen et al. 2023, algorithm 2."""
    assert not any(cautious.values())
    m = torch.zeros_like(w)
    for g in given:
        direction = torch.sign(betas[0] * m + (1 - betas[0]) * g)
        w = w - lr * (direction + weight_decay * w)
        m = betas[1] * m + (1 - betas[1]) * g
    return w


def naive_schedule_free(
    w: Tensor,
    given: list[Tensor],
    *,
    lr: float,
    betas: list[float],
    eps: float,
    weight_decay: float,
    **rest: Any,
) -> Tensor:
    """Defazio et al. 2024, algorithm 1, with Adam's scaling and a constant rate, where all steps weigh the same."""
    x, z, v = w, w, torch.zeros_like(w)
    for step, g in enumerate(given, start=1):
        y = (1 - betas[0]) * z + betas[0] * x
        v = betas[1] * v + (1 - betas[1]) * g**2
        z = z - lr * (g / ((v / (1 - betas[1] ** step)).sqrt() + eps) + weight_decay * y)
        x = (1 - 1 / step) * x + z / step
    return x


def orthogonalised(given: list[Tensor], momentum: float, ns_steps: int) -> list[Tensor]:
    """Jordan et al. 2024: the momentum after each step, orthogonalised with the published coefficients."""
    a, b, c = 3.4445, -4.7750, 2.0315
    m, found = torch.zeros_like(given[0]), []
    for g in given:
        m = momentum * m + (1 - momentum) * g
        u = (1 - momentum) * g + momentum * m
        u = u / u.norm()
        for _ in range(ns_steps):
            square = u @ u.T
            u = a * u + (b * square + c * square @ square) @ u
        found.append(u)
    return found


def naive_muon(
    w: Tensor, given: list[Tensor], *, lr: float, weight_decay: float, momentum: float, ns_steps: int, **rest: Any
) -> Tensor:
    """For a matrix, with the size of Liu et al. 2025, section 2.2; AdamW for a vector."""
    if w.dim() < 2:
        return naive_adamw(w, given, lr=lr, weight_decay=weight_decay, betas=rest["betas"], eps=rest["eps"])
    for u in orthogonalised(given, momentum, ns_steps):
        w = w - lr * (0.2 * max(w.shape) ** 0.5 * u + weight_decay * w)
    return w


def naive_normuon(
    w: Tensor,
    given: list[Tensor],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    beta2: float,
    ns_steps: int,
    **rest: Any,
) -> Tensor:
    """Li et al. 2025, algorithm 1, for a matrix; AdamW for a vector."""
    if w.dim() < 2:
        return naive_adamw(w, given, lr=lr, weight_decay=weight_decay, betas=rest["betas"], eps=rest["eps"])
    v = torch.zeros(len(w), dtype=w.dtype)
    for u in orthogonalised(given, momentum, ns_steps):
        v = beta2 * v + (1 - beta2) * u.square().mean(1)
        u = u / v.sqrt()[:, None]
        w = w - lr * (0.2 * w.numel() ** 0.5 * u / u.norm() + weight_decay * w)
    return w


def naive_soap(w: Tensor, given: list[Tensor], *, lr: float, weight_decay: float, **rest: Any) -> Tensor:
    """Vyas et al. 2024, algorithm 3, for a matrix, before the bases change; AdamW for a vector."""
    betas, eps = rest["betas"], rest["eps"]
    if w.dim() < 2:
        return naive_adamw(w, given, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)
    grams = [
        gram + 1e-3 * gram.diagonal().mean() * torch.linspace(1, 0, len(gram)).double().diag()
        for gram in (given[0] @ given[0].T, given[0].T @ given[0])
    ]
    u, v = (torch.linalg.eigh(gram).eigenvectors for gram in grams)
    w = w * (1 - lr * weight_decay)
    moments: list[Tensor] = [torch.zeros_like(w), torch.zeros_like(w)]
    for step, g in enumerate(given[1:], start=1):
        g = u.T @ g @ v
        moments = [b * old + (1 - b) * new for b, old, new in zip(betas, moments, (g, g**2), strict=True)]
        m, s = (moment / (1 - b**step) for b, moment in zip(betas, moments, strict=True))
        w = w - lr * (u @ (m / (s.sqrt() + eps)) @ v.T + weight_decay * w)
    return w


def naive_cautious_adamw(w: Tensor, given: list[Tensor], *, lr: float, weight_decay: float, **rest: Any) -> Tensor:
    """Liang et al. 2024, algorithm 1, and Chen et al. 2025, algorithm 1, with Adam's step."""
    betas, eps = rest["betas"], rest["eps"]
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for step, g in enumerate(given, start=1):
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        u = (m / (1 - betas[0] ** step)) / ((v / (1 - betas[1] ** step)).sqrt() + eps)
        agrees, shrinks = (u * g > 0).double(), (u * w >= 0).double()
        w = w - lr * (u * agrees / agrees.mean() + weight_decay * w * shrinks)
    return w


# Muon iterates in bfloat16, whose numbers have 8 binary digits.
RULES: dict[str, tuple[Naive, float]] = {
    "adam": (naive_adam, 1e-9),
    "adamw": (naive_adamw, 1e-9),
    "cautious_adamw": (naive_cautious_adamw, 1e-9),
    "lion": (naive_lion, 1e-9),
    "muon": (naive_muon, 0.03),
    "normuon": (naive_normuon, 0.03),
    "schedule_free": (naive_schedule_free, 1e-9),
    "sgd": (naive_sgd, 1e-9),
    "soap": (naive_soap, 1e-6),
}


def test_every_option_has_its_formula() -> None:
    assert sorted(RULES) == OPTIONS


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("option", OPTIONS)
def test_three_steps_are_those_of_the_formula(option: str, weight_decay: float) -> None:
    naive, tolerance = RULES[option]
    node = settings_of(option) | {"weight_decay": weight_decay, "lr": 0.05}
    model = nn.Linear(6, 8, dtype=torch.float64)
    optimizer: Any = build_optimizer(instantiate(node, _convert_="all"), model)
    given = {name: gradients(tuple(p.shape)) for name, p in model.named_parameters()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    getattr(optimizer, "train", lambda: None)()
    for step in range(STEPS):
        for name, parameter in model.named_parameters():
            parameter.grad = given[name][step].clone()
        optimizer.step()
        for name, parameter in model.named_parameters():  # a schedule may want to see them
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, given[name][step])
    getattr(optimizer, "eval", lambda: None)()
    values = {key: value for key, value in node.items() if not key.startswith("_")}
    for name, parameter in model.named_parameters():
        own = values | ({} if name == "weight" else {"weight_decay": 0.0})
        moved, expected = parameter.detach() - before[name], naive(before[name], given[name], **own) - before[name]
        assert (moved - expected).norm() <= tolerance * expected.norm(), name


@pytest.mark.parametrize("option", OPTIONS)
def test_gradients_scaled_for_float16_are_unscaled_before_the_step(option: str) -> None:
    """Where they are clipped. Fused optimizers would unscale them inside the step instead, too late."""
    model = nn.Linear(6, 8)
    optimizer: Any = build_optimizer(instantiate(settings_of(option), _convert_="all"), model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    getattr(optimizer, "train", lambda: None)()
    scaler.scale(model(torch.ones(2, 6)).sum()).backward()
    scaler.unscale_(optimizer)
    assert model.bias.grad is not None
    assert torch.equal(model.bias.grad, torch.full((8,), 2.0))
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    clipped, before = model.bias.grad.clone(), model.bias.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.bias.grad, clipped)
    assert not torch.equal(model.bias.detach(), before)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_trains_in_mixed_precision_with_clipping_and_accumulation(
    option: str, tiny_config: Callable[..., RunConfig], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Three steps, so that the run ends between two evaluations."""
    settings = ("trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=2", "trainer.max_steps=3")
    record = run(tiny_config(f"optimizer={option}", "schedule=gradient_variance", *settings), tmp_path)
    assert (record.status, record.reason, record.cost.steps) == ("ok", None, 3)
    assert record.mechanism["optimizer/update_ratio"] > 0


@pytest.mark.parametrize("steps", [1, 3])
def test_how_far_the_last_step_goes_is_measured_wherever_a_run_ends(
    steps: int, tiny_config: Callable[..., RunConfig], run: Callable[..., Any], tmp_path: Path
) -> None:
    """SGD without momentum and decay on clipped gradients: the step has the length lr clip."""
    override = ("optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=false", "optimizer.weight_decay=0")
    clip = ("trainer.gradient_clip_val=0.01", "schedule=constant", "schedule.warmup_share=0")
    record = run(tiny_config(*override, *clip, f"trainer.max_steps={steps}"), tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    distinct = {value.data_ptr(): value for value in state.values()}.values()  # tied ones once
    norm = torch.stack([value.norm() for value in distinct]).norm()
    assert record.mechanism["optimizer/update_ratio"] == pytest.approx(0.1 * 0.01 / float(norm), rel=1e-3)


def test_evaluations_and_checkpoints_hold_the_average_and_training_goes_on_from_the_other_weights(
    tiny_config: Callable[..., RunConfig], run: Callable[..., Any], tmp_path: Path
) -> None:
    """Beside a loop by hand that changes over to the average once, at its end: evaluations between leave no trace.

    Without biases: that of the keys has no gradient but rounding, which Adam's scaling would make large.
    """
    settings = ("schedule=constant", "schedule.warmup_share=0.5", "model.bias=false")
    config = tiny_config("optimizer=schedule_free", *settings)
    assert run(config, tmp_path).status == "ok"
    task = build_task(config)
    model = build_model(config, task)
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if name.startswith("blocks") and parameter.dim() == 2 else others).append(parameter)
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    optimizer = schedulefree.AdamWScheduleFree(groups, lr=2.5e-3, betas=(0.9, 0.95), weight_decay=0.1)
    optimizer.train()
    batches: Any = iter(task.train_dataloader())
    for factor in (1 / 3, 2 / 3, 1.0, 1.0):  # two steps of warm-up
        for group in optimizer.param_groups:
            group["lr"] = factor * 2.5e-3
        inputs, targets = next(batches)
        task.loss(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.eval()
    saved = load_run(tmp_path, "last")[0]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(saved.get_parameter(name), parameter, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(trained[name], parameter, rtol=1e-4, atol=1e-6)
