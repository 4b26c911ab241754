"""The sizes that all implementations of one run share, and the tensors that they are given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ablab.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Sizes, dtype and device.

    Raises:
        UserError: a size is out of its range.
    """

    batch: int = 1
    heads: int = 4
    head_size: int = 64
    window: int = 128  # keys that a query sees (causal), its own included; on either side where not causal
    chunk: int = 64  # keys per chunk of a bucket, and the block in which chunked peers work
    hash_rounds: int = 2
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "head_size", "window", "chunk", "hash_rounds"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.dtype not in DTYPES:
            raise UserError(f"--dtype {self.dtype}: there are {', '.join(DTYPES)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def width(self) -> int:
        """Of all heads together."""
        return self.heads * self.head_size

    def draw(self, length: int, *, heads_first: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys, values and a gradient of the output: (B, H, T, D) each, normally distributed.

        In memory they lie as (B, H, T, D) with `heads_first`, else as (B, T, H, D), as a layer's projections leave
        them. The numbers are the same either way.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = (self.batch, length, self.heads, self.head_size)
        drawn = []
        for _ in range(4):
            x = torch.randn(shape, generator=generator).to(self.device, self.torch_dtype).transpose(1, 2)
            drawn.append(x.contiguous() if heads_first else x)
        q, k, v, grad = drawn
        return q, k, v, grad
