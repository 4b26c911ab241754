"""Whether what it tells of itself can be told, and is true."""

from __future__ import annotations

import math

import torch

from ablab.certify.checks.causality import tokens
from ablab.certify.outcomes import Skipped, require
from ablab.certify.passes import as_dtype, in_mode
from ablab.certify.subject import LONG, Subject
from ablab.model.attention.base import AttentionCore, repeat_heads
from ablab.model.attention.layer import MultiHeadAttention
from ablab.model.mechanism import MechanismProbe, probe_outputs
from ablab.model.protocols import Measured, offering

LENGTH = 70


def tells(subject: Subject) -> str:
    """Mechanism metrics, pictures and answers to fixed inputs are finite numbers, and asking changes nothing."""
    model = subject.fresh().float()
    inputs = subject.inputs(2, LENGTH)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe = MechanismProbe(model, pictured=True, strict=True)
    probe.attach()
    with torch.no_grad(), in_mode(model, train=False):
        model(as_dtype(inputs, model))
    probe.detach()
    metrics = probe.metrics()
    probe.pictures()
    answers = probe_outputs(model)
    for _, module in offering(model, Measured):
        for name, value in module.mechanism().items():
            require(
                isinstance(value, int | float), f"mechanism() gives {name} as {type(value).__name__}, not as a number"
            )
    for name, value in metrics.items():
        require(math.isfinite(value), f"mechanism metric {name} is {value}")
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    require(not changed, f"asking for metrics changes {', '.join(changed)}")
    own = [name for name in metrics if name.startswith(f"{subject.axis.name}/")]
    return f"{len(own)} mechanism metrics, {len(answers)} answers to fixed inputs"


def visits(subject: Subject) -> str:
    """What an attention core tells of its weights is what it does: they make its outputs, and no other key is heard."""
    if subject.axis.name != "attention":
        raise Skipped("no attention")
    model, count = subject.model(), 0
    if any(type(each) is not MultiHeadAttention for each in subject.own(model).values()):
        raise Skipped("a layer of its own, whose core goes by more than queries and keys")
    for name, core in model.named_modules():
        if not isinstance(core, AttentionCore) or type(core).visited is AttentionCore.visited:
            continue
        seen: list[tuple[torch.Tensor, ...]] = []
        handle = core.register_forward_hook(lambda module, args, out, seen=seen: seen.append((*args[:3], out)))
        with torch.no_grad(), in_mode(model, train=False):
            for length in (LENGTH, LONG):
                model(tokens(subject, length))
        handle.remove()
        told = [each for each in seen if all(isinstance(one, torch.Tensor) for one in each)]
        for q, k, v, out in told:
            _check_weights(name, core, q, k, v, out)
        count += bool(told)
    if not count:
        raise Skipped("its core does not tell which keys it visits")
    return f"the weights that {count} cores tell of make their outputs, and are zero for keys that are not visited"


def _check_weights(
    name: str, core: AttentionCore, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor
) -> None:
    positions = torch.arange(q.shape[2])
    with torch.no_grad():
        weights = core.weights(q, k, positions)
        visited = core.visited(q, k, positions).expand(weights.shape)
    require(not bool(weights[~visited].any()), f"{name}: tells of weight on keys that it says it does not visit")
    require(bool((weights >= 0).all()), f"{name}: tells of weights below zero")
    future = torch.arange(k.shape[2]) > positions[:, None]
    require(not bool((visited & future).any()), f"{name}: says that queries visit keys behind them")
    expected = weights @ repeat_heads(v, weights.shape[1])
    apart = float((expected - out).abs().max() / out.abs().max().clamp(min=1e-30))
    require(apart <= 1e-6, f"{name}: the weights that it tells of do not make its output: apart by {apart:.1e}")
