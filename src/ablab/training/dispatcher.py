"""Places at PyTorch's dispatcher from which operators are seen. Torch has no public names for them, so that this is the
one file that uses its private ones; where another version has none such, each place says that nothing is seen there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# A collective on its way: how to send it on, and what it was called with.
Passing = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], Any]

# What another version of torch may say where it has no such key, operator or argument.
_Unknown = (AttributeError, TypeError, RuntimeError, ValueError, IndexError, ImportError)


@contextmanager
def every_operator(see: Callable[[Any], None]) -> Iterator[bool]:
    """Within it, `see` is called with each operator (`torch.ops...`) that this thread calls, and autograd for it.

    The mode is in PyTorch's notes on extending it, under this private name.

    Yields:
        Whether operators are seen.
    """
    try:
        mode = _mode(see)
    except _Unknown:
        yield False
        return
    with mode:
        yield True


def _mode(see: Callable[[Any], None]) -> Any:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seeing(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            see(func)
            return func(*args, **(kwargs or {}))

    return Seeing()  # type: ignore[no-untyped-call]  # torch says no types here


class Collectives:
    """The place that every call of an operator of the library `c10d` passes, whoever calls it.

    That is the dispatch key "BackendSelect", with or without autograd and in inference mode; none of these operators
    uses it itself.
    """

    def __init__(self) -> None:
        self._library: torch.library.Library | None = None
        self._key: Any = None  # of the dispatcher, at which we stand

    def install(self, passing: Mapping[str, Passing]) -> bool:
        """Have each of the operators `c10d::...` that is named call its function. Once per process at a time.

        Returns:
            False where this version of torch has no such place to stand or no such operator; all is then as before.
        """
        try:
            self._key = torch._C.DispatchKey.BackendSelect
            self._library = torch.library.Library("c10d", "IMPL")
            for name, function in passing.items():
                kernel = functools.partial(self._called, _operator(name), function)
                self._library.impl(name, kernel, "BackendSelect", with_keyset=True)
        except _Unknown:
            self.remove()
            return False
        return True

    def remove(self) -> None:
        """Leave the collectives as they were."""
        if self._library is not None:
            self._library._destroy()
            self._library = None

    def _called(self, operator: Any, function: Passing, keys: Any, *args: Any, **kwargs: Any) -> Any:
        return function(functools.partial(operator.redispatch, keys.remove(self._key)), args, kwargs)


def place_of(name: str, argument: str) -> int | None:
    """Which of the arguments of `c10d::name` has a name, if any has. None, too, where torch does not tell."""
    try:
        names = [each.name for each in _operator(name)._schema.arguments]
        return names.index(argument)
    except _Unknown:
        return None


def _operator(name: str) -> Any:
    return getattr(torch.ops.c10d, name).default


def dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """What a tensor is made of: itself, or of a sparse one indices and values, duplicates included."""
    return (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,)
