"""Whether what is said of a sample hangs on anything but the sample: on others, on earlier calls, on chance."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ablab.certify.checks.causality import MODES, ROUNDING, draws, said
from ablab.certify.outcomes import Skipped, require
from ablab.certify.passes import LATE, Model, difference, in_mode, logits
from ablab.certify.subject import LONG, Subject
from ablab.model.protocols import FollowsBatches, InitialisesItself, offering
from ablab.tasks.base import Inputs

_SAME = "has the same values for every seed of a run"


def batch(subject: Subject) -> str:
    """A sample's outputs are the same beside other samples, alone, and at another place of the batch."""
    model, largest = subject.model(), 0.0
    for train, step in MODES:
        for length in (20, LONG):
            whole, other = subject.inputs(3, length), subject.inputs(3, length, seed=1)
            out = logits(model, whole, train=train, step=step)
            found = difference(out[:1], logits(model, joined(whole, other), train=train, step=step)[:1])
            mode = f"in {said(train, step)}, of {length} tokens"
            require(found <= ROUNDING, f"{mode}: other samples beside it change a sample's outputs by {found:.1e}")
            largest = max(largest, found)
            if train and draws(model, whole):
                continue  # who draws for each sample draws others for another batch
            alone = difference(out[1:2], logits(model, picked(whole, [1]), train=train, step=step))
            require(alone <= ROUNDING, f"{mode}: a sample alone gives other outputs than in a batch, by {alone:.1e}")
            turned = logits(model, picked(whole, [2, 0, 1]), train=train, step=step)
            found = difference(out, picked_out(turned, [1, 2, 0]))
            require(found <= ROUNDING, f"{mode}: at another place of the batch outputs differ by {found:.1e}")
            largest = max(largest, alone, found)
    return f"beside others, alone and at another place, in both modes: outputs differ by at most {largest:.0e}"


def repeats(subject: Subject) -> str:
    """Same seed, same outputs: nothing is kept from call to call, and evaluation draws nothing."""
    model, inputs, other = subject.fresh(), subject.inputs(2, 70), subject.inputs(2, 33, seed=1)
    first, state = logits(model, inputs, keep=True), dict(_state(model))
    logits(model, other, keep=True)
    require(
        torch.equal(first, logits(model, inputs, keep=True)), "in evaluation, the same input gives another output later"
    )
    changed = [name for name, value in _state(model).items() if not torch.equal(value, state[name])]
    require(not changed, f"evaluation changes the state: {', '.join(changed)}")
    _check_chance(model, inputs)
    _check_training(subject, inputs, other)
    return "twice the same to the last bit, whatever was called before and whatever generators are at"


def _check_chance(model: Model, inputs: Inputs) -> None:
    """Evaluation hangs on no generator and moves none; training hangs on torch's alone, which a pass seeds."""
    with torch.no_grad():
        found = []
        for seed in (1, 2):
            _seed_all(seed)
            before = torch.get_rng_state()
            found.append(model.eval()(inputs))
            require(torch.equal(before, torch.get_rng_state()), "evaluation draws from torch's global generator")
        require(torch.equal(*found), "evaluation hangs on the global generators of random numbers")
        trained = []
        for seed in (1, 2):
            _seed_all(seed)
            trained.append(logits(model, inputs, train=True))
    require(
        torch.equal(*trained),
        "in training, two passes with the same seed differ: it draws from Python's or NumPy's generator, or another "
        "that the seed of the run does not govern",
    )


def _check_training(subject: Subject, inputs: Inputs, other: Inputs) -> None:
    """A pass in training is a function of the weights, the batch and the step."""
    for step in (0, 3, LATE):
        fresh, used = subject.fresh(), subject.fresh()
        expected = logits(fresh, inputs, train=True, step=step)
        logits(used, other, train=True, step=step + 5, keep=True)
        if any(True for _ in offering(used, FollowsBatches)):
            continue  # it says that batches change it
        logits(used, other, train=False, keep=True)
        found = difference(expected, logits(used, inputs, train=True, step=step))
        require(
            found <= ROUNDING,
            f"in training, what was passed before changes the outputs of a batch at step {step} by {found:.1e}; what "
            "changes with batches offers begin_microbatches and end_microbatches, with steps resample or after_step",
        )


def seeds(subject: Subject) -> str:
    """Initial values are a function of the run's seed and each parameter's name, and of no global generator."""
    built = []
    for seed in (1, 2):
        _seed_all(seed)
        before = _generators()
        built.append(subject.build())
        after = _generators()
        require(before == after, "building a model moves a global generator of random numbers")
    for name, value in _state(built[0]).items():
        same = torch.equal(value, _state(built[1])[name])
        require(same, f"{name}: two models of the same seed have other values: drawn from a global generator")
    usual, count = subject.build(usual=True), 0
    own = dict(built[0].named_parameters())
    for name, parameter in usual.named_parameters():
        if name in own and own[name].shape == parameter.shape:
            mine = any(name.startswith(f"{each}.") for each in subject.own(built[0]))
            same = mine or torch.equal(own[name], parameter)
            require(same, f"{name}: has another initial value than beside {subject.usual_name}: pairs of runs part")
            count += 1
    _check_other_seed(subject, built[0])
    _check_seeding(subject)
    return f"{count} parameters beside it have the values that they have beside {subject.usual_name}"


def _check_seeding(subject: Subject) -> None:
    """Its constructor leaves the generator that others are constructed with where it found it, or further on."""
    behind: list[Tensor] = []
    for seed in (0, 1):
        subject.build(seed=seed, made=lambda: behind.append(torch.get_rng_state()))
    half = len(behind) // 2
    for one, other in zip(behind[:half], behind[half:], strict=True):
        require(
            not torch.equal(one, other),
            "its constructor seeds torch's global generator: what is drawn behind it no longer hangs on the run's seed",
        )


def _check_other_seed(subject: Subject, model: Model) -> None:
    """Drawn matrices differ with the seed, and from layer to layer."""
    with torch.no_grad():
        other = dict(subject.build(seed=1).named_parameters())
        named = subject.own_parameters(model)
        drawn = {name: p for name, p in named.items() if p.ndim > 1 and p.numel() > 3 and p.std() > 1e-12}
        for name, parameter in drawn.items():
            if _is_regular(parameter):
                continue
            require(not torch.equal(parameter, other[name]), f"{name}: {_SAME}")
            later = name.replace("blocks.0.", "blocks.1.")
            if later != name and later in named and named[later].shape == parameter.shape:
                require(not torch.equal(parameter, named[later]), f"{name}: every layer begins with the same values")

        for path, module in model.named_modules():
            own = dict(module.named_parameters(recurse=False)) if path.startswith(tuple(subject.own(model))) else {}
            if isinstance(module, InitialisesItself):
                for name, parameter in own.items():
                    _check_drawn(module, name, parameter, f"{path}.{name}")


def _check_drawn(module: Any, name: str, parameter: Tensor, said: str) -> None:
    """Raises Failed where random numbers of another generator than the given one become initial values."""
    values = []
    with _Drawing() as drawing:  # type: ignore[no-untyped-call]
        for seed in (1, 2):
            values.append(parameter.detach().clone())
            module.init_parameter(name, values[-1], torch.Generator().manual_seed(seed))
    require(not drawing.count or not torch.equal(*values), f"{said}: {_SAME}")


class _Drawing(TorchDispatchMode):
    """Counts the draws of random numbers, of whatever generator."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _is_regular(parameter: Tensor) -> bool:
    """Whether it has a few different numbers, or rows all alike: nothing that was drawn."""
    rows = parameter.flatten(1)
    return len(parameter.unique()) <= max(4, parameter.shape[0]) or torch.equal(rows, rows[:1].expand_as(rows))


def _state(model: Model) -> dict[str, Tensor]:
    named = {name: value.detach().clone() for name, value in model.named_parameters()}
    return named | {name: value.clone() for name, value in model.named_buffers()}


def _generators() -> list[str]:
    """The state of each global generator."""
    return [str(torch.get_rng_state().tolist()), repr(random.getstate()), repr(numpy.random.get_state(legacy=False))]


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed)


def joined(inputs: Inputs, others: Inputs) -> Inputs:
    """The first sample of `inputs`, and the others of `others`."""
    if isinstance(inputs, Tensor):
        assert isinstance(others, Tensor)
        return torch.cat([inputs[:1], others[1:]])
    assert isinstance(others, dict)
    return {name: torch.cat([each[:1], others[name][1:]]) for name, each in inputs.items()}


def picked(inputs: Inputs, order: list[int]) -> Inputs:
    """These samples."""
    return inputs[order] if isinstance(inputs, Tensor) else {name: each[order] for name, each in inputs.items()}


def picked_out(out: Tensor, order: list[int]) -> Tensor:
    return out[order]


def lengths(subject: Subject) -> str:
    """Any number of tokens and samples, whichever came before: a table that was made for others is of no harm."""
    if subject.several:
        raise Skipped("samples of several modalities all have one length")
    orders, count = ((65, 1, 2, 7, LONG, 16), (LONG, 7)), 0
    for order in orders:
        used = subject.fresh()
        for number, length in enumerate(order):
            ids = subject.inputs(1 + number % 3, length)
            fresh = subject.fresh()
            with torch.no_grad(), in_mode(used, train=False, keep=True), in_mode(fresh, train=False):
                found = difference(fresh(ids), used(ids))
            before = f"after {order[number - 1]}" if number else "at first"
            require(found <= ROUNDING, f"{length} tokens {before}: outputs differ from a fresh model's by {found:.1e}")
            count += 1
    return f"{count} lengths and batches in turn, 1 to {LONG} tokens: as of a fresh model"
