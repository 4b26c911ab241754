"""Whether numbers hold: in few bits and in many, of any size, and in any memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ablab.certify.checks.causality import ROUNDING
from ablab.certify.outcomes import Failed, Skipped, require
from ablab.certify.passes import Model, as_dtype, difference, gradients, in_mode, logits, loss
from ablab.certify.subject import LONG, Subject
from ablab.tasks.base import Inputs

LENGTH = 40
SINGLE, HALF, CAST = 5e-3, 0.05, 0.15  # most that outputs may be off, in the mean over all of them


def dtypes(subject: Subject) -> str:
    """Single and half precision are near double, under autocast and cast as a whole, and the type is kept."""
    exact = logits(subject.model(stirred=False), subject.inputs(2, LENGTH))
    found = {"float32": _off(exact, *_single(subject))}
    require(found["float32"] <= SINGLE, f"float32: outputs are off by {found['float32']:.1e} of their size")
    for dtype, said in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        found[f"autocast {said}"] = off = _autocast(subject, exact, dtype)
        require(off <= HALF, f"autocast to {said}: outputs are off by {off:.1%} of their size")
        found[said] = off = _cast(subject, exact, dtype)
        require(off <= CAST, f"cast to {said}: outputs are off by {off:.1%} of their size")
    return "off from float64: " + ", ".join(f"{said} {off:.0e}" for said, off in found.items())


def _single(subject: Subject) -> tuple[Model, Inputs]:
    model = subject.build()
    return model, as_dtype(subject.inputs(2, LENGTH), model)


def _off(exact: Tensor, model: Model, inputs: Inputs) -> float:
    out = logits(model, inputs)
    require(bool(out.isfinite().all()), f"{out.dtype}: outputs are not finite")
    return float((out.double() - exact).norm() / exact.norm())


def _autocast(subject: Subject, exact: Tensor, dtype: torch.dtype) -> float:
    model, inputs = _single(subject)
    with torch.autocast("cpu", dtype):
        found = _off(exact, model, inputs)
        value = loss(model, inputs, subject.targets(inputs))
    for name, gradient in gradients(model, value).items():
        require(
            gradient is None or bool(gradient.isfinite().all()),
            f"autocast to {dtype}: the gradient of {name} is not finite",
        )
    return found


def _cast(subject: Subject, exact: Tensor, dtype: torch.dtype) -> float:
    model = subject.build().to(dtype)
    inputs = as_dtype(subject.inputs(2, LENGTH), model)
    try:
        out = logits(model, inputs)
    except RuntimeError as error:
        if "not implemented for" in str(error) and dtype == torch.float16:
            return 0.0  # a kernel that CPUs have not
        raise Failed(f"cast to {dtype}: {str(error).splitlines()[0]}") from error
    require(out.dtype == dtype, f"cast to {dtype}: outputs are {out.dtype}")
    return _off(exact, model, inputs)


def whole_precision(subject: Subject) -> str:
    """In double precision nothing is computed in less: a cast to float32 inside would hide in every comparison."""
    model, inputs = subject.model(), subject.inputs(2, 70)
    inside: list[str] = []
    handles = [handle for place, module in subject.own(model).items() for handle in _marks(module, place, inside)]
    seen: dict[str, str] = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            narrowed = isinstance(out, Tensor) and out.dtype in (torch.float32, torch.float16, torch.bfloat16)
            wide = any(isinstance(each, Tensor) and each.dtype == torch.float64 for each in args)
            if narrowed and wide and inside:
                seen.setdefault(inside[-1], str(out.dtype).removeprefix("torch."))
            return out

    try:
        with torch.no_grad(), in_mode(model, train=False), Watch():  # type: ignore[no-untyped-call]
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    for place, dtype in seen.items():
        raise Failed(f"{place}: rounds float64 to {dtype} on the way; cast to what is wider, not to a type of its own")
    return "float64 stays float64 in every operation of a pass"


def _marks(module: nn.Module, place: str, inside: list[str]) -> Iterator[Any]:
    def enter(module: nn.Module, args: Any) -> None:
        inside.append(place)

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        inside.pop()

    yield module.register_forward_pre_hook(enter)
    yield module.register_forward_hook(leave)


def extremes(subject: Subject) -> str:
    """Zeros, tokens all alike, and numbers a thousand times as large give finite outputs and gradients."""
    model = _stirred_single(subject)
    inputs = as_dtype(subject.inputs(2, 70), model)
    alike = inputs if not isinstance(inputs, Tensor) else torch.zeros_like(inputs)
    ways = {"zeros": (0.0, 0.0), "a thousand times as large": (1e3, 0.0), "as small as 1e-12": (1e-12, 0.0)}
    if subject.axis.name == "norm":  # whose input is a stream that may be far from zero
        ways["ten thousand away from zero"] = (1.0, 1e4)
    for said, (factor, offset) in ways.items():
        with _scaled(subject, model, factor, offset):
            _check_finite(subject, model, inputs, f"inputs {said}")
        if factor > 1 and not subject.several:
            with _scaled(subject, model, factor, offset):
                _check_finite(subject, model, subject.inputs(1, LONG), f"{LONG} tokens, inputs {said}")
    _check_finite(subject, model, alike, "one token throughout")
    return f"inputs of its modules as {', '.join(ways)}, one token throughout: all finite in float32"


def _stirred_single(subject: Subject) -> Model:
    return subject.fresh().float()


@contextmanager
def _scaled(subject: Subject, model: Model, factor: float, offset: float) -> Iterator[None]:
    """Within it what goes into its modules, or where those take no stream of the embedding, is so much larger, and off
    by so much."""

    def scale(module: nn.Module, args: tuple[Any, ...]) -> Any:
        first = args[0] if args else None
        return (first * factor + offset, *args[1:]) if isinstance(first, Tensor) and first.is_floating_point() else None

    places = subject.own(model).values() if subject.axis.name in _OF_STREAM else [model.dropout]
    handles = [module.register_forward_pre_hook(scale) for module in places]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


_OF_STREAM = ("attention", "feed_forward", "activation", "norm", "residual")


def _check_finite(subject: Subject, model: Model, inputs: Inputs, said: str) -> None:
    out = logits(model, inputs)
    require(bool(out.isfinite().all()), f"{said}: outputs are not finite")
    value = loss(model, inputs, subject.targets(inputs))
    for name, gradient in gradients(model, value).items():
        require(gradient is None or bool(gradient.isfinite().all()), f"{said}: the gradient of {name} is not finite")


def memory(subject: Subject) -> str:
    """Inputs may lie in memory in any way, and are the caller's: they are not written to."""
    name, model, inputs = subject.axis.name, subject.fresh(), subject.inputs(2, 70)
    if name not in ("attention", "feed_forward", "activation", "norm"):
        raise Skipped(f"an option of {name} is given no single tensor")
    before, written = logits(model, inputs), []
    given: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        given[module] = args[0].clone()

    for place, module in subject.own(model).items():
        module.register_forward_pre_hook(_apart)
        module.register_forward_pre_hook(keep)
        module.register_forward_hook(
            lambda module, args, out, place=place: (
                None if torch.equal(args[0], given[module]) else written.append(place)
            )
        )
    found = difference(before, logits(model, inputs))
    require(not written, f"{written[0] if written else ''}: writes to its input, which others read")
    require(found <= ROUNDING, f"inputs that lie otherwise in memory give other outputs, by {found:.1e} of their size")
    return f"inputs across memory: outputs differ by {found:.0e}; inputs are left as they are"


def _apart(module: nn.Module, args: tuple[Any, ...]) -> Any:
    """The same numbers, the features of all tokens one after the other."""
    x = args[0]
    if not isinstance(x, Tensor) or x.ndim < 2:
        return None
    return (x.transpose(-1, -2).contiguous().transpose(-1, -2), *args[1:])
