"""Random draws in training as common random numbers: what one module draws, and how often, moves no other's.

PyTorch's kernels draw from one generator for each device, one after the other, so that one number more in an attention
would give every later dropout another mask. Here each module that draws is given generators of its own while it is
called: seeded by the pass (seed of the run, step, batch, rank) and its name, and put back afterwards. Nothing of it has
to be kept in a checkpoint.

The pass is the upper half of the generators' seed, which no draw moves and which is part of their state: whoever
puts a state back to compute something again, as `torch.utils.checkpoint` does, draws the same masks again.

A module that is called twice in a pass draws the same both times; `branch` sets the calls apart.

`dropout` draws the same masks where `torch.compile` has made a graph of the module, in which nothing can be put back
and forth: there the mask is an operator of its own (`ablab::kept`), which is given the module's key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

_HALF = 32  # bits of a seed
_KNOWN = ("ablab.", "torch.")  # of whose modules it is known whether they draw
_KEY = "draw_key"  # of a module that draws apart
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class _Key:
    """The key of a module's draws: a tensor, so that it is no part of a graph, which modules that are alike share."""

    number: Tensor  # on the CPU, wherever the module goes


Saved = list[tuple[torch.Generator, Tensor]]


def seed_pass(*key: int) -> None:
    """Begin a pass through a model in training: what is drawn from here on is a function of `key`."""
    _seed(_digest(*key), 0)
    if torch.backends.mps.is_available():  # whose generator is not put back and forth
        torch.mps.manual_seed(_digest(*key))


def key_draws(model: nn.Module) -> None:
    """Let each module of a model that draws in training draw as a function of the pass and its name alone.

    Those are ablab's with dropout, and all of somebody else's, each as a whole.
    """
    for name, module in model.named_modules():
        if _draws(module):
            draw_apart(module, name)
        if _is_ours(module):
            for place, child in module.named_children():
                if isinstance(child, _DROPOUTS) and child.p > 0:
                    draw_apart(child, f"{name}.{place}")


def draw_apart(module: nn.Module, *key: int | str) -> None:
    """Let a module draw as a function of the pass and `key` alone. Of two keys of one module the later one counts."""
    own = _OwnGenerators(_digest(*key))
    setattr(module, _KEY, _Key(torch.tensor(own.key, device="cpu")))
    module.register_forward_pre_hook(own.enter)
    module.register_forward_hook(own.leave, prepend=True)


@contextmanager
def branch(module: nn.Module, key: int | str) -> Iterator[None]:
    """Within it a module in training, and all that it calls, draws as in a pass of its own, which `key` tells apart."""
    if not module.training or torch.compiler.is_compiling():
        yield
        return
    saved = _switch(_digest(_pass(), key), 0)
    try:
        yield
    finally:
        _restore(saved)


def dropout(module: nn.Module, x: Tensor, p: float) -> Tensor:
    """Return x with dropout if the module, which draws nothing else, is in training. Compiled or not it is the same."""
    if not module.training or p == 0:
        return x
    key = getattr(module, _KEY, None)
    if key is None or not torch.compiler.is_compiling():
        return nn.functional.dropout(x, p)
    like = torch.empty_like(x)  # whose order in memory, in which a mask is drawn, is that of the mask
    mask: Tensor = kept(key.number, like.shape, like.stride(), x.dtype, x.device, p)
    return x * mask.to(x.dtype).div(1 - p)


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(self, x, self.p)


@torch.library.custom_op("ablab::kept", mutates_args=())
def kept(
    key: Tensor, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype, device: torch.device, p: float
) -> Tensor:
    """The numbers that dropout lets through, bool: as a module of that key draws them in the pass that has begun."""
    saved = _switch(_pass(), int(key))
    try:
        ones = torch.empty_strided(shape, stride, dtype=dtype, device=device).fill_(1)
        return nn.functional.dropout(ones, p) != 0
    finally:
        _restore(saved)


@kept.register_fake
def _(
    key: Tensor, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype, device: torch.device, p: float
) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=torch.bool, device=device)


class _OwnGenerators:
    """Hooks around the calls of a module in training. In what is compiled they do nothing: one graph has one generator.

    Args:
        key: 32 bits.
    """

    def __init__(self, key: int) -> None:
        self.key = key
        self._saved: Saved | None = None

    def enter(self, module: nn.Module, args: Any) -> None:
        drawing = module.training and not torch.compiler.is_compiling()
        self._saved = _switch(_pass(), self.key) if drawing else None

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._saved is not None:
            _restore(self._saved)
            self._saved = None


def _draws(module: nn.Module) -> bool:
    dropout = getattr(module, "dropout", 0.0)
    return not type(module).__module__.startswith(_KNOWN) or (isinstance(dropout, float) and dropout > 0)


def _is_ours(module: nn.Module) -> bool:
    return type(module).__module__.startswith("ablab.")


def _pass() -> int:
    return torch.default_generator.initial_seed() >> _HALF


def _switch(of_pass: int, key: int) -> Saved:
    """Seed the generators, and return what they were."""
    saved = [(generator, generator.get_state()) for generator in _generators()]
    _seed(of_pass, key)
    return saved


def _seed(of_pass: int, key: int) -> None:
    number = of_pass << _HALF | (of_pass ^ key)  # the CPU's goes by the lower half
    for generator in _generators():
        generator.manual_seed(number)


def _restore(saved: Saved) -> None:
    for generator, state in saved:
        generator.set_state(state)


def _generators() -> list[torch.Generator]:
    """The CPU's, and that of the GPU that this process works on."""
    if not torch.cuda.is_initialized():
        return [torch.default_generator]
    return [torch.default_generator, torch.cuda.default_generators[torch.cuda.current_device()]]


def _digest(*key: int | str) -> int:
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=_HALF // 8).digest(), "big")
