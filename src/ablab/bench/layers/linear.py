"""Linear attention: gated delta rule and Mamba-2, whole layers, beside those of `transformers` in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ablab.bench.layers.pair import Kind, Layer, Sizes, copy, model, option, peer

CHUNK = 64  # tokens computed together, of ours and of Qwen3-Next's, which has no other


def kinds() -> list[Kind]:
    """Both."""
    delta = {"qwen3-next": _qwen3_next}
    # Mamba-2's released models have chunks of 256; beside it the size that ours has.
    mamba = {f"mamba2-chunk-{chunk}": partial(_mamba2, chunk) for chunk in (CHUNK, 256)}
    return [
        Kind(name="gated_delta", ours=_ours("gated_delta"), call=_unrotated, peers=delta, linear=True),
        Kind(name="mamba2", ours=_ours("mamba2"), call=_unrotated, peers=mamba, linear=True),
    ]


def _ours(name: str) -> Callable[[Sizes, int], Any]:
    return lambda sizes, length: option("attention", name, sizes, length, chunk=CHUNK)


def _unrotated(ours: Any, sizes: Sizes, length: int) -> Callable[[Tensor], Tensor]:
    return lambda x: ours(x, None)


def _qwen3_next(ours: Any, sizes: Sizes, length: int) -> Layer:
    module, size = model("qwen3_next"), sizes.width // sizes.heads
    config = module.Qwen3NextConfig(
        hidden_size=sizes.width, linear_num_value_heads=sizes.heads, linear_num_key_heads=sizes.heads,
        linear_key_head_dim=size, linear_value_head_dim=size, linear_conv_kernel_dim=4, num_hidden_layers=1,
    )  # fmt: skip
    theirs = module.Qwen3NextGatedDeltaNet(config, layer_idx=0)
    by_head = [each.weight.unflatten(0, (sizes.heads, -1)) for each in (ours.query, ours.key, ours.value, ours.gate)]
    steps = torch.stack([ours.write.weight, ours.decay.project.weight], 1)
    copy(
        [
            (theirs.in_proj_qkvz.weight, torch.cat(by_head, 1).flatten(0, 1)),
            (theirs.in_proj_ba.weight, steps.flatten(0, 1)),
            *_common(theirs, ours),
        ]
    )
    return peer("qwen3-next", theirs, theirs)


def _mamba2(chunk: int, ours: Any, sizes: Sizes, length: int) -> Layer:
    module = model("mamba2")
    config = module.Mamba2Config(
        hidden_size=sizes.width, num_heads=sizes.heads, head_dim=ours.head_size, state_size=ours.state_size,
        expand=ours.head_size * sizes.heads // sizes.width, n_groups=1, chunk_size=chunk, num_hidden_layers=1,
    )  # fmt: skip
    theirs = module.Mamba2Mixer(config, layer_idx=0)
    parts = (ours.gate, ours.value, ours.key, ours.query, ours.decay.project)
    copy(
        [
            (theirs.in_proj.weight, torch.cat([part.weight for part in parts])),
            (theirs.conv1d.bias, ours.convolution.bias),
            (theirs.D, ours.skip),
            *_common(theirs, ours),
        ]
    )
    return peer(f"mamba2-chunk-{chunk}", theirs, theirs)


def _common(theirs: Any, ours: Any) -> list[tuple[Tensor, Tensor]]:
    return [
        (theirs.conv1d.weight, ours.convolution.weight.unsqueeze(1)),
        (theirs.dt_bias, ours.decay.bias),
        (theirs.A_log, ours.decay.log_rate),
        (theirs.norm.weight, ours.norm.weight),
        (theirs.out_proj.weight, ours.output.weight),
    ]
