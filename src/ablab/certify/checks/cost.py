"""What it costs beside the axis's default option, and how large its numbers are."""

from __future__ import annotations

import statistics
import time
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ablab.certify.outcomes import require
from ablab.certify.passes import Model, as_dtype, gradients, loss
from ablab.certify.subject import LONG, Subject
from ablab.training.cost import count_active_parameters, count_flops, count_parameters, warmed_up

LARGE = 300.0  # times as large as with the default option, or as small: not a matter of taste any more
ROUNDS = 4


def costs(subject: Subject) -> str:
    """Parameters, FLOPs of a step, time and memory, each over the default option's."""
    own, usual = subject.build(), subject.build(usual=True)
    active = count_active_parameters(own)
    require(
        0 < active <= count_parameters(own),
        f"says that {count_parameters(own) - active:,} of {count_parameters(own):,} parameters are inactive",
    )
    said = [
        f"parameters {count_parameters(own):,} ({count_parameters(own) / count_parameters(usual):.2f}x), "
        f"active {active:,} ({active / count_active_parameters(usual):.2f}x)"
    ]
    flops = [_flops(subject, usual=each) for each in (False, True)]
    if flops[0] is None or flops[1] is None:
        said.append("FLOPs not counted")
    else:
        said.append(f"FLOPs of a step {flops[0] / flops[1]:.2f}x")
    (time_s, kept), (usual_s, usual_kept) = _measured(subject, own, usual)
    said.append(f"time {time_s / usual_s:.1f}x, memory of a step {kept / max(1, usual_kept):.2f}x")
    return "; ".join(said) + ("" if subject.is_usual else f" of {subject.usual_name}")


def _flops(subject: Subject, *, usual: bool) -> int | None:
    """Of a step with one sample; None where they can be counted neither without values nor with them."""
    inputs = subject.inputs(1, LONG)
    targets = subject.targets(inputs)

    def mean(out: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(out.flatten(0, 1), targets.flatten())

    for make in (partial(_on_meta, subject, usual), partial(subject.build, usual=usual)):
        model: Model = make()
        try:
            warmed_up(model)
            given = inputs if isinstance(inputs, Tensor) else as_dtype(inputs, model)
            return count_flops(model, mean, (given, targets))[0]
        except Exception:  # of anybody's component, on a device without values
            continue
    return None


def _on_meta(subject: Subject, usual: bool) -> Model:
    with torch.device("meta"):
        return subject.build(usual=usual)


def _measured(subject: Subject, *models: Model) -> list[tuple[float, int]]:
    """The time of a step of each, in turn, and the bytes that autograd keeps for it."""
    times: list[list[float]] = [[] for _ in models]
    kept = [0 for _ in models]
    for turn in range(ROUNDS):
        for place, model in enumerate(models):
            inputs = as_dtype(subject.inputs(2, LONG), model)
            targets = subject.targets(inputs)
            seen = {each.untyped_storage().data_ptr(): 0 for each in model.parameters()}

            def keep(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
                seen.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
                return tensor

            began = time.perf_counter()
            if turn == 0:
                with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                    value = loss(model, inputs, targets)
                kept[place] = sum(seen.values())
            else:
                value = loss(model, inputs, targets)
            gradients(model, value)
            times[place].append(time.perf_counter() - began)
    return [(statistics.median(own[1:]), each) for own, each in zip(times, kept, strict=True)]


def scale(subject: Subject) -> str:
    """At the start, outputs and gradients are of the size that they have with the default option, within reason."""
    own, usual = _sizes(subject, usual=False), _sizes(subject, usual=True)
    for name, size in own.items():
        ratio = size / max(usual[name], 1e-30)
        require(
            1 / LARGE < ratio < LARGE,
            f"at the start, {name} {size:.1e}, with {subject.usual_name} {usual[name]:.1e}: {ratio:.1e} times as large",
        )
    return "at the start, " + ", ".join(f"{name} {size / usual[name]:.2f}x" for name, size in own.items())


def _sizes(subject: Subject, *, usual: bool) -> dict[str, float]:
    model = subject.model(usual=usual, stirred=False)
    inputs = subject.inputs(2, 70)
    sizes: list[float] = []

    def see(module: torch.nn.Module, args: object, out: Tensor) -> None:
        sizes.append(float(out.detach().square().mean().sqrt()))

    handles = [block.register_forward_hook(see) for _, block in model.layers()]
    try:
        value = loss(model, inputs, subject.targets(inputs), step=0)
    finally:
        for handle in handles:
            handle.remove()
    norms = [float(each.square().sum()) for each in gradients(model, value).values() if each is not None]
    return {"loss": value.item(), "gradient": sum(norms) ** 0.5, "stream": max(sizes)}
