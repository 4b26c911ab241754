"""What every optimizer promises: it goes down, by its groups, from gradients alone, and can stop and go on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ablab.certify.checks.small import (
    OptimizerSubject,
    Small,
    batch_loss,
    copied,
    near,
    require_as,
    require_same,
    train,
)
from ablab.certify.outcomes import require
from ablab.model.initialisation import keyed_generator

STEPS = 8
CLOSE = 1e-6  # in single precision, of sums in another order


def descends(subject: OptimizerSubject) -> str:
    """On one batch, and on a quadratic, the loss goes down, and stays finite."""
    said = []
    for name, loss_of in (("a small model", batch_loss), ("a quadratic", _quadratic)):
        model = Small()
        optimizer = subject.optimizer(model)
        found = []
        for _ in range(60):
            value = loss_of(model)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            found.append(value.item())
        getattr(optimizer, "eval", lambda: None)()
        found.append(loss_of(model).item())
        require(all(map(_is_finite, found)), f"on {name} the loss is not finite after {len(found)} steps")
        require(found[-1] < found[0], f"on {name} 60 steps take the loss from {found[0]:.4f} to {found[-1]:.4f}")
        said.append(f"{name} {found[0]:.3f} to {found[-1]:.3f}")
    return f"60 steps on {', '.join(said)}"


def _is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _quadratic(model: nn.Module) -> Tensor:
    return torch.stack([each.square().sum() for each in model.parameters()]).sum()


def resumes(subject: OptimizerSubject) -> str:
    """Its state_dict is all that it remembers: written, read and gone on with, parameters are the same bit for bit."""
    model = Small()
    optimizer = subject.optimizer(model)
    train(model, optimizer, range(STEPS))
    written = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, written)
    train(model, optimizer, range(STEPS, 2 * STEPS))
    written.seek(0)
    state: Any = torch.load(written, weights_only=True)
    again = Small(seed=1)
    other = subject.optimizer(again)
    again.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    train(again, other, range(STEPS, 2 * STEPS))
    require_same(model, again, f"stopped at step {STEPS} and resumed", 0.0)
    return f"stopped at step {STEPS} of {2 * STEPS}: parameters are the same bit for bit"


def order(subject: OptimizerSubject) -> str:
    """Parameters in another order, and some without a gradient, get the same steps."""
    model, turned, partly = Small(), Small(), Small()
    train(model, subject.optimizer(model), range(STEPS))
    optimizer = subject.optimizer(turned)
    for group in optimizer.param_groups:
        group["params"].reverse()
    train(turned, optimizer, range(STEPS))
    require_same(model, turned, "with the parameters in another order", CLOSE)
    partly.up.bias.requires_grad_(True)
    without = subject.optimizer(partly)
    kept = partly.up.bias.detach().clone()
    value = batch_loss(partly)
    value.backward()
    partly.up.bias.grad = None
    without.step()
    require(torch.equal(kept, partly.up.bias), "a parameter without a gradient is moved")
    whole = Small()
    optimizer = subject.optimizer(whole)
    batch_loss(whole).backward()
    optimizer.step()
    for name, parameter in whole.named_parameters():
        if name != "up.bias":
            own = dict(partly.named_parameters())[name]
            require(near(parameter, own), f"{name}: gets another step where another parameter has no gradient")
    return "reversed, and with one that has no gradient: the same steps"


def groups(subject: OptimizerSubject) -> str:
    """Each group has its own rate and decay: at rate 0 nothing moves, and what is not to be decayed is not."""
    model = Small()
    optimizer = subject.optimizer(model)
    before = copied(model)
    for group in optimizer.param_groups:
        if group["name"] == "not_decayed":
            group["lr"] = 0.0
    train(model, optimizer, range(3))
    still = {id(each) for group in optimizer.param_groups if group["lr"] == 0 for each in group["params"]}
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        if id(parameter) in still:
            require(not moved, f"{name}: moves, though the rate of its group is 0")
        else:
            require(moved, f"{name}: does not move in three steps")
    _check_decay(subject)
    return f"{len(optimizer.param_groups)} groups: at rate 0 still, without decay no smaller"


def _check_decay(subject: OptimizerSubject) -> None:
    """With gradients of zero nothing but decay moves anything, and what is not decayed stays."""
    model = Small()
    optimizer = subject.optimizer(model)
    before = copied(model)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    kept = {id(each) for group in optimizer.param_groups if group["name"] == "not_decayed" for each in group["params"]}
    for name, parameter in model.named_parameters():
        require(bool(parameter.isfinite().all()), f"{name}: is not finite after steps with gradients of zero")
        if id(parameter) in kept:
            require(near(before[name], parameter), f"{name}: moves by a gradient of zero, though it is not decayed")
        else:
            grown = float(parameter.norm() / before[name].norm())
            require(grown < 1 + CLOSE, f"{name}: grows {grown:.4f} times by gradients of zero")


def rates(subject: OptimizerSubject) -> str:
    """What a schedule writes into its groups is what the next step goes by: at half the rate half the step."""
    moved = []
    for factor in (1.0, 0.5):
        model = Small()
        optimizer = subject.optimizer(model)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        before = copied(model)
        train(model, optimizer, range(1))
        moved.append({name: parameter.detach() - before[name] for name, parameter in model.named_parameters()})
    worst = 0.0
    for name, step in moved[0].items():
        worst = max(worst, float((step / 2 - moved[1][name]).norm() / step.norm().clamp(min=1e-30)))
        require(worst < 0.02, f"{name}: at half the rate the first step is not half as long, but off by {worst:.0%}")
    return f"at half the rate the first step is half as long, to {worst:.1e}"


def extremes(subject: OptimizerSubject) -> str:
    """Gradients of zero, very small and very large ones give finite steps."""
    for size in (0.0, 1e-20, 1e-8, 1e4, 1e10):
        model = Small()
        optimizer = subject.optimizer(model)
        for step in range(3):
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=keyed_generator("gradient", step, name))
                parameter.grad = size * noise
            optimizer.step()
        for name, parameter in model.named_parameters():
            require(bool(parameter.isfinite().all()), f"{name}: is not finite after gradients of size {size:g}")
    return "gradients of size 0, 1e-20, 1e-8, 1e4 and 1e10: all steps finite"


def manners(subject: OptimizerSubject) -> str:
    """A closure is called with gradients on and its loss returned, gradients are left, and nothing is drawn."""
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = Small()
        optimizer = subject.optimizer(model)
        before = torch.get_rng_state()
        train(model, optimizer, range(STEPS))
        require(torch.equal(before, torch.get_rng_state()), "a step draws from torch's global generator")
        ends.append(model)
    require_same(ends[0], ends[1], "with another state of the global generator", 0.0)
    model = Small()
    optimizer = subject.optimizer(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = batch_loss(model)
        value.backward()
        return value

    expected = batch_loss(model).item()
    given = optimizer.step(closure)
    require(given is not None, "step(closure) returns nothing, where Lightning and others read the loss")
    require(float(given) == expected, f"step(closure) returns {float(given)}, and the loss is {expected}")
    _check_gradients_left(subject)
    return "a closure's loss is returned, gradients are left as they are, nothing is drawn"


def _check_gradients_left(subject: OptimizerSubject) -> None:
    model = Small()
    optimizer = subject.optimizer(model)
    batch_loss(model).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        require(torch.equal(before[name], parameter.grad), f"{name}: a step writes to its gradient, which others read")


def evaluation(subject: OptimizerSubject) -> str:
    """Where it evaluates with other weights than it trains with, going there and back changes nothing."""
    model = Small()
    optimizer = subject.optimizer(model)
    train(model, optimizer, range(STEPS))
    if not (hasattr(optimizer, "eval") and hasattr(optimizer, "train")):
        return "trains and evaluates with the same weights"
    before = copied(model)
    optimizer.eval()
    apart = max(float((before[name] - p.detach()).abs().max()) for name, p in model.named_parameters())
    optimizer.train()
    require_as(before, model, "behind eval() and train()", CLOSE)
    return f"eval() moves weights by {apart:.1e}, and train() moves them back"


def measures() -> Iterator[tuple[str, Any]]:
    """The checks of the axis beside those of its settings."""
    yield from {
        "descends": descends,
        "resume": resumes,
        "order": order,
        "groups": groups,
        "rates": rates,
        "extremes": extremes,
        "manners": manners,
        "evaluation": evaluation,
    }.items()
