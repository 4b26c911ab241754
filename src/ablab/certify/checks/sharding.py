"""Whether several processes can share it: all that it holds is registered, and gradients of parts are those of all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, distributed, nn

from ablab.certify.checks.causality import ROUNDING
from ablab.certify.checks.independence import picked
from ablab.certify.outcomes import Failed, Skipped, require
from ablab.certify.passes import LATE, as_dtype, difference, gradients, loss
from ablab.certify.subject import LONG, Subject


def registered(subject: Subject) -> str:
    """Every tensor that it holds is a parameter or a buffer, so that devices, checkpoints and strategies have it."""
    model = subject.build()
    kept = {id(each) for each in (*model.parameters(), *model.buffers())}
    modules = {id(each) for each in model.modules()}
    own = {
        f"{place}.{name}": each for place, module in subject.own(model).items() for name, each in module.named_modules()
    }
    before = {name: dict(vars(each)) for name, each in own.items()}
    inputs = as_dtype(subject.inputs(2, 40), model)
    loss(model, inputs, subject.targets(inputs))
    for name, each in own.items():
        for key, value in before[name].items():
            if vars(each).get(key) is not value:
                continue  # of a pass; the next one replaces it
            for tensor in _within(value):
                held = id(tensor) in kept if isinstance(tensor, Tensor) else id(tensor) in modules
                kind = "a tensor" if isinstance(tensor, Tensor) else "a module"
                require(held, f"{name}.{key}: holds {kind} that is not registered: no device and no checkpoint has it")
    _check_apart(subject.own(model))
    tensors = sum(1 for module in subject.own(model).values() for _ in (*module.parameters(), *module.buffers()))
    return f"all {tensors} tensors of it are parameters or buffers; none stands elsewhere"


def _check_apart(own: Mapping[str, nn.Module]) -> None:
    """Raises Failed where modules of two layers have a parameter or a buffer together."""
    whose: dict[int, str] = {}
    for place, module in own.items():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            first = whose.setdefault(id(tensor), place)
            require(first == place, f"{place}.{name}: is one tensor with that of {first}: layers are not apart")


def _within(value: Any, depth: int = 0) -> Iterator[Tensor | nn.Module]:
    """Tensors and modules that an attribute holds beside what torch has registered."""
    if isinstance(value, Tensor | nn.Module):
        yield value
    elif depth < 2 and isinstance(value, list | tuple | set):
        for each in value:
            yield from _within(each, depth + 1)
    elif depth < 2 and isinstance(value, dict):
        for each in value.values():
            yield from _within(each, depth + 1)


def devices(subject: Subject) -> str:
    """It works wherever its parameters are: no tensor is made on the CPU whatever device the model is on."""
    model = subject.fresh().to("meta")
    given = subject.inputs(2, 70)
    inputs: Any = (
        given.to("meta") if isinstance(given, Tensor) else {name: each.to("meta") for name, each in given.items()}
    )
    try:
        model.eval()(inputs)
    except Exception as error:
        text = " ".join(str(error).split())
        if any(said in text for said in _TWO_DEVICES):
            raise Failed(f"makes a tensor on another device than its inputs': {text[:160]}") from error
        raise Skipped(f"reads values, so that it cannot be tried without any ({type(error).__name__})") from error
    return "a pass on a device of its own: nothing is made elsewhere"


_TWO_DEVICES = ("is not on the expected device", "two devices", "same device", "on device cpu", "cpu is not on")


def microbatches(subject: Subject) -> str:
    """The gradient of a batch is the mean of its halves', as data parallel training and accumulation have it."""
    model, largest, place = subject.model(), 0.0, ""
    for count, length, step in ((4, 70, 0), (4, 70, LATE), (2, LONG, LATE)):
        inputs = subject.inputs(count, length)
        targets = subject.targets(inputs)
        whole = gradients(model, loss(model, inputs, targets, step=step, penalties=False))
        halves = []
        for order in (list(range(count // 2)), list(range(count // 2, count))):
            value = loss(model, picked(inputs, order), targets[order], step=step, penalties=False)
            halves.append(gradients(model, value))
        for name, gradient in whole.items():
            both = [half[name] for half in halves]
            if gradient is None or gradient.abs().max() < 1e-12:
                continue
            mean = sum(each / 2 for each in both if each is not None)
            assert isinstance(mean, Tensor)
            found = difference(gradient, mean)
            if found > largest:
                largest, place = found, name
    require(largest <= 1e-7, f"the gradient of {place} of a batch is not the mean of its halves': by {largest:.1e}")
    return f"gradients of a batch and of its halves: apart by at most {largest:.0e}"


def sharded(subject: Subject) -> str:
    """With its parameters in shards (fully_shard), a step has the same loss and gradients, and a whole state_dict."""
    if not distributed.is_available() or distributed.is_initialized():
        raise Skipped("this process is one of several already")
    from torch.distributed.fsdp import fully_shard

    plain = subject.fresh()
    inputs = subject.inputs(2, 40)
    targets = subject.targets(inputs)
    expected = gradients(plain, loss(plain, inputs, targets))
    with _alone():
        model = subject.fresh()
        single = {each for each in model.parameters() if not each.ndim}  # which every process has
        for _, block in model.layers() if model.each_block_once else ():  # else parts of blocks are called
            fully_shard(block, ignored_params=single)
        fully_shard(model, ignored_params=single)
        loss(model, inputs, targets).backward()
        found = {name: _whole(each.grad) for name, each in model.named_parameters()}
        names = set(model.state_dict())
    require(names == set(plain.state_dict()), "the state_dict of shards has other names")
    worst = 0.0
    for name, gradient in expected.items():
        own = found[name]
        if gradient is None or gradient.abs().max() < 1e-12:
            continue
        if own is None:
            raise Failed(f"in shards, {name} gets no gradient")
        worst = max(worst, difference(gradient, own))
        require(worst <= ROUNDING, f"in shards, the gradient of {name} differs by {worst:.1e} of its size")
    return f"by fully_shard: gradients of a step differ by at most {worst:.0e}"


def _whole(gradient: Any) -> Tensor | None:
    whole: Tensor | None = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return whole


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Within it, this process is the only one of a group."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()
