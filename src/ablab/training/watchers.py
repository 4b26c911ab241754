"""Several callbacks as one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning import Callback
from torch.optim.optimizer import StateDict

_HOOKS = [name for name in dir(Callback) if name.startswith("on_")] + ["setup", "teardown"]


class Watchers(Callback):
    """What watches every run, as one callback for the Trainer, in the order given.

    At every step Lightning calls six hooks of each callback through its profiler, also those that do nothing: with ten
    callbacks that takes longer than the watching. Here each is called for the hooks that its class defines.
    """

    def __init__(self, *callbacks: Callback) -> None:
        self._callbacks = callbacks
        # Lightning asks for it at every hook.
        self._state_key = f"Watchers[{', '.join(callback.state_key for callback in self._stateful)}]"
        for name in _HOOKS:
            defined = [getattr(callback, name) for callback in callbacks if _defines(callback, name)]
            if defined:
                setattr(self, name, partial(_call_each, defined))

    @property
    def state_key(self) -> str:
        return self._state_key

    def state_dict(self) -> StateDict:
        states = {callback.state_key: callback.state_dict() for callback in self._stateful}
        return {key: state for key, state in states.items() if state}  # as Lightning does

    def load_state_dict(self, state_dict: StateDict) -> None:
        for callback in self._stateful:
            if callback.state_key in state_dict:
                callback.load_state_dict(state_dict[callback.state_key])

    @property
    def _stateful(self) -> list[Callback]:
        return [callback for callback in self._callbacks if _defines(callback, "state_dict")]


def _defines(callback: Callback, name: str) -> bool:
    return getattr(type(callback), name) is not getattr(Callback, name)


def _call_each(hooks: list[Callable[..., None]], *args: Any, **kwargs: Any) -> None:
    for hook in hooks:
        hook(*args, **kwargs)
