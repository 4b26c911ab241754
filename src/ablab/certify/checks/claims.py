"""Whether what a component says of itself holds, where others rely on it, and what an objective asks for ahead."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.certify.checks.causality import ROUNDING, tokens
from ablab.certify.outcomes import Skipped, require
from ablab.certify.passes import Model, difference, in_mode, logits
from ablab.certify.subject import VOCABULARY, Subject
from ablab.model.attention.base import AttentionCore
from ablab.model.feed_forward.routing import Router
from ablab.model.multimodal import MultimodalTransformer
from ablab.model.objective.base import IGNORED
from ablab.model.position import Rope
from ablab.model.protocols import SizesItself, WorksByUnit

LENGTH = 40
TABLES = 1e-4  # in tables of single precision
SHIFT = 3.0  # of all biases of a router


@torch.no_grad()
def holds(subject: Subject) -> str:
    """Heads and units that work by themselves do; rotations see distances alone; a balance's bias never weighs;
    modalities meet in the layers that are named."""
    found = [said for each in (_heads, _units, _distances, _biases, _meetings) if (said := each(subject))]
    if not found:
        raise Skipped("says nothing of itself that others rely on")
    return "; ".join(found)


def ahead(subject: Subject) -> str:
    """What is predicted further ahead is told from the tokens before it alone."""
    model = subject.model()
    if subject.axis.name != "objective" or not model.objective.reach:
        raise Skipped("asks for nothing further ahead")
    ids, largest = tokens(subject, LENGTH), 0.0
    for start in (5, 20, LENGTH - 1):
        changed = torch.cat([ids[:, :start], (ids[:, start:] + 1) % VOCABULARY], 1)
        for depth, (one, other) in enumerate(zip(_asked(model, ids), _asked(model, changed), strict=True), 1):
            earlier = (one[1][0] != IGNORED) & (one[1][0] < start)  # the token asked for there is one behind
            found = difference(one[0][:, earlier], other[0][:, earlier])
            require(
                found <= ROUNDING,
                f"{depth} ahead: what is asked for before token {start} is told by tokens from there on, which it is "
                f"to predict: {found:.1e}",
            )
            largest = max(largest, found)
    return f"{model.objective.reach} ahead: later tokens change what is told of earlier ones by at most {largest:.0e}"


@torch.no_grad()
def _asked(model: Model, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Logits for each token further ahead, and the places whose targets they are for."""
    seen: list[Tensor] = []
    handle = model.objective.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        with in_mode(model, train=False):
            model(ids, targets=torch.arange(LENGTH).expand_as(ids))
            return list(model.objective.ahead(seen[0]))  # type: ignore[arg-type]
    finally:
        handle.remove()


def _heads(subject: Subject) -> str:
    model, count = subject.model(), 0
    for name, core in model.named_modules():
        if subject.axis.name == "attention" and isinstance(core, AttentionCore) and core.by_head:
            q, k, v = _drawn(3, model.n_heads, LENGTH, 8).double().unsqueeze(1)
            mixed = core.eval()(q, k, v)
            others = core(*(torch.cat([-each[:, :1], each[:, 1:]], 1) for each in (q, k, v)))
            found = difference(mixed[:, 1:], others[:, 1:])
            require(found <= ROUNDING, f"{name}: says by_head, and a head changes with another one, by {found:.1e}")
            count += 1
    return f"{count} cores work by head" if count else ""


def _units(subject: Subject) -> str:
    model, count = subject.model(), 0
    if subject.axis.name != "activation":
        return ""
    for name, module in subject.own(model).items():
        if isinstance(module, WorksByUnit) and module.by_unit and not isinstance(module, SizesItself):
            x = _drawn(1, LENGTH, 128).double()
            one, other = (module.eval()(each) for each in (x, torch.cat([-x[..., :1], x[..., 1:]], -1)))
            found = difference(one[..., 1:], other[..., 1:])
            require(found <= ROUNDING, f"{name}: says by_unit, and a unit changes with another one, by {found:.1e}")
            count += 1
    return f"{count} activations work by unit" if count else ""


def _distances(subject: Subject) -> str:
    position = subject.model().position
    if subject.axis.name != "position" or not isinstance(position, Rope):
        return ""
    q, k = (each.double().expand(1, 1, LENGTH, 8) for each in _drawn(2, 8))
    q, k = position.rotate(q, k)
    scores = q @ k.mT
    found = difference(scores[..., 1:, 1:], scores[..., :-1, :-1])
    require(found <= TABLES, f"rotated queries and keys do not score by their distance alone: apart by {found:.1e}")
    return "scores of rotated queries and keys go by distance"


def _biases(subject: Subject) -> str:
    if subject.axis.name != "feed_forward":
        return ""
    model, inputs = subject.fresh(), subject.inputs(2, LENGTH)
    routers = [each for each in model.modules() if isinstance(each, Router)]
    before = logits(model, inputs)
    for each in routers:
        each.bias += SHIFT  # of all experts alike: the choice stays
    found = difference(before, logits(model, inputs))
    require(found <= ROUNDING, f"the bias that keeps loads even weighs what experts give: by {found:.1e}")
    return f"biases of {len(routers)} routers choose and never weigh" if routers else ""


def _meetings(subject: Subject) -> str:
    model = subject.model()
    if subject.axis.name != "modal_fusion" or not isinstance(model, MultimodalTransformer):
        return ""
    fusion, places = model.modal_fusion, list(model.layout.places.values())
    steps = [torch.tensor(fusion.reach(layer)) for layer in range(len(model.blocks))]
    if any(step.shape != (len(places), len(places)) for step in steps):
        return ""  # by tokens of its own between them
    said = torch.eye(len(places))
    for step in steps:
        said = (step + torch.eye(len(places))) @ said
    inputs = subject.inputs(2)
    with torch.enable_grad(), in_mode(model, train=False):
        x, mask = model.enter(inputs)
        x = x.detach().requires_grad_()
        out = model.ends(
            model.through(range(len(model.blocks)), [model.ends.begin(x)], model.context(inputs, mask))[-1]
        )
        for asking, place in enumerate(places):
            (heard,) = torch.autograd.grad(out[:, place].square().sum(), x, retain_graph=True)
            for asked, other in enumerate(places):
                does, says = bool(heard[:, other].any()), bool(said[asking, asked] > 0)
                names = model.layout.names[asking], model.layout.names[asked]
                wrong = f"{names[0]} {'hears' if does else 'does not hear'} {names[1]}, and reach() says otherwise"
                require(does == says, wrong)
    return f"{len(places)} modalities hear those that reach() names"


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))
