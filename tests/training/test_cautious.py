"""Cautious steps of every rule that has them: of each number of an update, kept or not by its sign."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from ablab.config import conf_folder
from ablab.training.optimizers.cautious import Caution
from ablab.training.optimizers.groups import build_optimizer

LR, DECAY = 0.05, 0.4
Steps = list[dict[str, Tensor]]  # of parameters, by name


def node_of(option: str) -> dict[str, Any]:
    loaded: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "optimizer" / f"{option}.yaml"))
    return dict(loaded)


OPTIONS = sorted(
    path.stem for path in (conf_folder() / "optimizer").glob("*.yaml") if "cautious_decay" in node_of(path.stem)
)


def gradients() -> Steps:
    generator = torch.Generator().manual_seed(2)
    shapes = {"weight": (6, 4), "bias": (6,)}
    return [
        {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        for _ in range(5)
    ]


def trained(option: str, **settings: Any) -> Steps:
    """The parameters before and after each step."""
    model = nn.Linear(4, 6, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    optimizer = build_optimizer(instantiate(node_of(option) | {"lr": LR} | settings, _convert_="all"), model)
    seen = [{name: p.detach().clone() for name, p in model.named_parameters()}]
    for given in gradients():
        for name, parameter in model.named_parameters():
            parameter.grad = given[name].clone()
        optimizer.step()
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
    assert optimizer.param_groups[0]["weight_decay"] == settings["weight_decay"]
    return seen


@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("option", OPTIONS)
def test_what_agrees_is_kept(option: str, update: bool, decay: bool) -> None:
    """What a rule makes of the gradients does not hang on the weights, so that a plain run has the same updates."""
    plain = trained(option, weight_decay=0.0, cautious_update=False, cautious_decay=False)
    found = trained(option, weight_decay=DECAY, cautious_update=update, cautious_decay=decay)
    for name in ("weight", "bias"):
        w = plain[0][name]
        for before, after, given, seen in zip(plain, plain[1:], gradients(), found[1:], strict=False):
            u, g = (before[name] - after[name]) / LR, given[name]
            shrunk = torch.where(u * w >= 0, w, 0) if decay else w
            if update and (u * g > 0).any():
                u = torch.where(u * g > 0, u, 0) / (u * g > 0).double().mean()
            w = w - LR * (u + (DECAY if name == "weight" else 0.0) * shrunk)
            torch.testing.assert_close(seen[name], w, rtol=0, atol=1e-12)


def test_no_step_grows_without_bound() -> None:
    """Where one number of very many agrees with the gradient."""
    parameter = nn.Parameter(torch.zeros(5000))
    parameter.grad = torch.ones(5000)
    parameter.grad[0] = -1.0

    Caution(update=True).step(torch.optim.SGD([parameter], lr=1.0), lambda: parameter.data.add_(1.0))
    assert parameter.detach().tolist() == pytest.approx([1000.0, *[0.0] * 4999])
