"""Lightning without what it spends on hooks that nobody uses.

Each step Lightning calls six hooks of every callback, also those that do nothing, and opens a profiler's context
around each. With the blocks of `TrainingModule` this keeps small models' steps from waiting for Python; `ablab bench
loop` measures what is left.
"""

from __future__ import annotations

import contextlib
from typing import Any

from lightning import Callback
from lightning.pytorch.profilers import PassThroughProfiler

_STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class NoProfiler(PassThroughProfiler):
    """Lightning's default profiler does nothing either, but makes a generator for it each time."""

    _NOTHING = contextlib.nullcontext()

    def profile(self, action_name: str) -> Any:
        return self._NOTHING


def without_idle_hooks(callback: Callback) -> Callback:
    """The callback, without the per-step hooks that its class does not define: Lightning skips what is not callable."""
    for name in _STEP_HOOKS:
        if getattr(type(callback), name) is getattr(Callback, name):
            setattr(callback, name, None)
    return callback
