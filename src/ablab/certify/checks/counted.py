"""Whether what is counted is there: FLOPs with values as without them, and a cache's numbers as its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from ablab.certify.checks.causality import tokens
from ablab.certify.outcomes import Skipped, require
from ablab.certify.passes import Model, as_dtype
from ablab.certify.subject import LONGEST, Subject
from ablab.errors import UserError
from ablab.model.decoding import Decoder, without_cache
from ablab.training.cost import count_flops, warmed_up
from ablab.training.inference import decode_flops, prefill_flops

APART = 1.05  # rows that a kernel fills up, on one device alone
LONGER = 640  # tokens: below 512 sparse options of the menu compute all of it
DECODED = 200
SAMPLES = 2

STEP, FORWARD, TOKEN = "a step", "a whole sequence", "a decoded token"

Count = Callable[[Model], int | None]


def flops(subject: Subject) -> str:
    """FLOPs of a step, of a whole sequence and of a decoded token: as many without values as with them."""
    found = {}
    for name, count in _counts(subject).items():
        without, real = _on_meta(subject, count), _counted(subject.build(max_length=LONGER), count)
        if without is None or real is None:
            continue
        found[name] = real / max(1, without)
        require(
            1 / APART <= found[name] <= APART,
            f"{name}: {without:,} FLOPs are counted on the meta device, as runs count them, and {real:,} where it has "
            f"values, {found[name]:.2f} times as many",
        )
    if not found:
        raise Skipped("FLOPs cannot be counted without values, and are counted with them")
    return "with values over without: " + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in found.items())


def _counts(subject: Subject) -> dict[str, Count]:
    found: dict[str, Count] = {STEP: partial(_of_step, subject)}
    if not subject.several and True in subject.ways:
        found[FORWARD] = partial(prefill_flops, length=LONGER)
        found[TOKEN] = lambda model: decode_flops(model.eval(), DECODED)
    return found


def _of_step(subject: Subject, model: Model) -> int:
    inputs = subject.inputs(1, LONGER)
    model.train()
    return count_flops(model, _mean, (as_dtype(inputs, model), subject.targets(inputs)))[0]


def _mean(out: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(out.flatten(0, 1), targets.flatten())


def _on_meta(subject: Subject, count: Count) -> int | None:
    with torch.device("meta"):
        model = subject.build(max_length=LONGER)
    return _counted(model, count)


def _counted(model: Model, count: Count) -> int | None:
    """What is counted, of attention the products on any device; None where it cannot be."""
    try:
        warmed_up(model)
        with sdpa_kernel(SDPBackend.MATH):
            return count(model)
    except Exception:  # of anybody's component, on a device without values
        return None


def cache(subject: Subject) -> str:
    """A cache keeps what it says, in numbers and in bytes, and nothing of earlier tokens lies anywhere else."""
    if not any(hasattr(module, "new_cache") for module in subject.own(subject.model()).values()):
        raise Skipped("it keeps nothing of earlier tokens")
    if (line := without_cache(subject.model())) is not None:
        raise Skipped(line)
    said = [_formulas(model, name) for name, model in _models(subject)]
    _nothing_beside(subject)
    return f"of {LONGEST} tokens, {', '.join(said)}; all of it in the cache's tensors"


def _models(subject: Subject) -> Iterator[tuple[str, Model]]:
    """As it is, and with fewer heads of keys than of queries where it takes them."""
    yield "", subject.build()
    heads = subject.config.options["model"]["n_heads"]
    if heads % 2 == 0:
        try:
            yield f" with {heads // 2} heads of keys", subject.build(n_kv_heads=heads // 2)
        except (ValueError, UserError):
            return


def _formulas(model: Model, name: str) -> str:
    """Hold the numbers that each layer's formula gives to what it allocates."""
    total = 0
    for length in (1, 40, LONGEST):
        parts: list[tuple[str, Any, tuple[int, ...]]] = [("layer fusion", model.layer_fusion, ())]
        parts += [(f"layer {layer}", block.attention, (length,)) for layer, block in model.layers()]
        total = 0
        for where, part, sizes in parts:
            allocated = part.new_cache(SAMPLES, *sizes)
            numbers = part.cache_numbers(*sizes) or 0
            itemsize = model.head.weight.element_size()
            found = 0 if allocated is None else allocated.nbytes // (SAMPLES * itemsize)
            require(
                numbers == found,
                f"{where}{name}: `cache_numbers` says {numbers:,} of {length} tokens, and the cache has {found:,}",
            )
            total += found
    return f"{total:,} numbers{name}"


@torch.no_grad()
def _nothing_beside(subject: Subject) -> None:
    model = subject.build().eval()
    known = {_place(each) for each in (*model.parameters(), *model.buffers())}
    before = {_place(each) for each in _of_modules(model)}
    decoder = Decoder(model, batch=SAMPLES, capacity=LONGEST)
    ids = tokens(subject, DECODED, 0, SAMPLES)
    for piece in (ids[:, :150], *ids[:, 150:].split(10, 1)):
        decoder.extend(piece)
    kept = [*decoder.caches, *([decoder.fusion_cache] if decoder.fusion_cache is not None else [])]
    said = {_place(each) for one in kept for each in one.tensors()}
    for where, found in (("the cache", _reachable(kept)), ("the module", _of_modules(model))):
        aside = {_place(each): each for each in found if _place(each) not in known | before | said}
        numbers = sum(each.untyped_storage().nbytes() for each in aside.values())
        require(
            not aside,
            f"behind {DECODED} tokens {where} keeps {numbers:,} bytes in {len(aside)} tensors that are none of "
            "the cache's `tensors()`: they are in no count, and cannot be taken back",
        )


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _of_modules(model: nn.Module) -> Iterator[Tensor]:
    """Tensors in attributes of modules that are neither parameters nor buffers."""
    for module in model.modules():
        yield from _reachable(value for name, value in vars(module).items() if name not in _OF_TORCH)


_OF_TORCH = ("_parameters", "_buffers", "_modules")


def _reachable(things: Iterable[Any], depth: int = 6) -> Iterator[Tensor]:
    """Tensors with elements in lists, dictionaries and objects of no library."""
    for each in things:
        if isinstance(each, Tensor):
            if each.numel():
                yield each
        elif depth:
            yield from _reachable(_within(each), depth - 1)


def _within(thing: Any) -> Iterable[Any]:
    if isinstance(thing, dict):
        return thing.values()
    if isinstance(thing, list | tuple | set):
        return thing
    of_library = type(thing).__module__.partition(".")[0] in _LIBRARIES
    return () if of_library else getattr(thing, "__dict__", {}).values()


_LIBRARIES = ("builtins", "torch", "functools", "collections", "typing")
