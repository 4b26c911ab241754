"""Buffers that are moved by steps too small for 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class FloatBuffers(nn.Module):
    """A module whose own buffers stay in float32 where it is made one of 16 bits, as by `trainer.precision=bf16-true`.

    What an average or a bias is moved by is soon less than half of what 16 bits can tell apart: it would stand still.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch says no types here
        for name, buffer in self._buffers.items():
            own = before[name]
            if own is not None and buffer is not None and buffer.dtype in (torch.bfloat16, torch.float16):
                self._buffers[name] = own.to(buffer.device, torch.float32)
        return self
