"""The linear attentions beside the layers of `transformers`, with the same weights.

Those compute in single precision whatever they are given.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.attention.gated_delta import GatedDeltaNet
from ablab.model.attention.mamba2 import Mamba2
from ablab.model.attention.recurrence import DeltaRule
from ablab.model.spec import LayerSpec

pytest.importorskip("transformers", reason="the extra `bench` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a package that is not ours

Spec = Callable[..., LayerSpec]
WIDTH, HEADS = 32, 4
LENGTHS = (1, 3, 63, 64, 65, 150)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def qwen3_next(key_heads: int, key_size: int, value_size: int) -> Any:
    config = import_module("transformers").Qwen3NextConfig(
        hidden_size=WIDTH,
        linear_num_value_heads=HEADS,
        linear_num_key_heads=key_heads,
        linear_key_head_dim=key_size,
        linear_value_head_dim=value_size,
        linear_conv_kernel_dim=4,
        num_hidden_layers=1,
    )
    module = import_module("transformers.models.qwen3_next.modeling_qwen3_next")
    return perturbed(module.Qwen3NextGatedDeltaNet(config, layer_idx=0))


def mamba2(expand: int, state_size: int, groups: int) -> Any:
    config = import_module("transformers").Mamba2Config(
        hidden_size=WIDTH,
        num_heads=HEADS,
        head_dim=expand * WIDTH // HEADS,
        expand=expand,
        state_size=state_size,
        n_groups=groups,
        chunk_size=16,
        num_hidden_layers=1,
    )
    module = import_module("transformers.models.mamba2.modeling_mamba2")
    return perturbed(module.Mamba2Mixer(config, layer_idx=0))


def perturbed(theirs: nn.Module) -> nn.Module:
    with torch.no_grad():
        for seed, parameter in enumerate(theirs.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed) * (0.3 if parameter.ndim > 1 else 1.0))
    return theirs.eval()


def copied(ours: nn.Module, weights: dict[str, Tensor]) -> None:
    ours.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()})


def by_key_head(weight: Tensor, key_heads: int, sizes: list[int]) -> list[Tensor]:
    """Rows that lie together for each head of keys, apart."""
    parts = weight.unflatten(0, (key_heads, -1)).split(sizes, 1)
    return [part.flatten(0, 1) for part in parts]


def delta_weights(theirs: Any) -> dict[str, Tensor]:
    served, size = theirs.num_v_heads // theirs.num_k_heads, theirs.head_v_dim
    sizes = [theirs.head_k_dim, theirs.head_k_dim, served * size, served * size]
    q, k, v, z = by_key_head(theirs.in_proj_qkvz.weight, theirs.num_k_heads, sizes)
    b, a = by_key_head(theirs.in_proj_ba.weight, theirs.num_k_heads, [served, served])
    return {
        "query.weight": q,
        "key.weight": k,
        "value.weight": v,
        "gate.weight": z,
        "write.weight": b,
        "decay.project.weight": a,
        "decay.bias": theirs.dt_bias,
        "decay.log_rate": theirs.A_log,
        "convolution.weight": theirs.conv1d.weight[:, 0],
        "norm.weight": theirs.norm.weight,
        "output.weight": theirs.out_proj.weight,
    }


def mamba_weights(theirs: Any) -> dict[str, Tensor]:
    inner, shared = theirs.intermediate_size, theirs.n_groups * theirs.ssm_state_size
    z, x, b, c, step = theirs.in_proj.weight.split([inner, inner, shared, shared, theirs.num_heads])
    return {
        "gate.weight": z,
        "value.weight": x,
        "key.weight": b,
        "query.weight": c,
        "decay.project.weight": step,
        "decay.bias": theirs.dt_bias,
        "decay.log_rate": theirs.A_log,
        "skip": theirs.D,
        "convolution.weight": theirs.conv1d.weight[:, 0],
        "convolution.bias": theirs.conv1d.bias,
        "norm.weight": theirs.norm.weight,
        "output.weight": theirs.out_proj.weight,
    }


def agree(ours: Any, theirs: Any, length: int) -> None:
    """Outputs, and gradients of the input; the second sequence begins with padding."""
    x = random(2, length, WIDTH, seed=length).requires_grad_()
    padding = torch.stack([torch.zeros(length, dtype=torch.bool), torch.arange(length) < length // 3])
    padding = padding if length > 1 else None
    found = ours(x, None, padding)
    expected = theirs(x, attention_mask=None if padding is None else (~padding).long())
    seen = torch.ones(2, length, 1) if padding is None else (~padding).float()[..., None]
    size = expected.abs().max().item()
    torch.testing.assert_close(found * seen, expected * seen, rtol=1e-5, atol=1e-5 * size)
    direction = seen * random(*expected.shape, seed=1)
    mine, other = (torch.autograd.grad(y, x, direction)[0] for y in (found, expected))
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("key_heads", "key_size", "value_size"), [(4, 8, 8), (2, 4, 16), (1, 16, 8)])
def test_gated_delta_is_that_of_qwen3_next(
    make_spec: Spec, length: int, key_heads: int, key_size: int, value_size: int
) -> None:
    theirs = qwen3_next(key_heads, key_size, value_size)
    spec = make_spec(d_model=WIDTH, n_heads=HEADS, bias=False)
    ours = GatedDeltaNet(spec, key_heads=key_heads, key_size=key_size, value_size=value_size)
    copied(ours, delta_weights(theirs))
    agree(ours, theirs, length)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("expand", "state_size", "groups"), [(2, 8, 1), (1, 5, 2), (2, 16, 4)])
def test_mamba2_is_that_of_transformers(
    make_spec: Spec, length: int, expand: int, state_size: int, groups: int
) -> None:
    theirs = mamba2(expand, state_size, groups)
    ours = Mamba2(
        make_spec(d_model=WIDTH, n_heads=HEADS, bias=False), expand=expand, state_size=state_size, groups=groups
    )
    copied(ours, mamba_weights(theirs))
    agree(ours, theirs, length)


def test_the_recurrent_form_of_qwen3_next_too() -> None:
    module = import_module("transformers.models.qwen3_next.modeling_qwen3_next")
    q, k, v = (random(2, 45, 3, 8, seed=seed) for seed in range(3))
    k = nn.functional.normalize(k, dim=-1)
    decay, write = -random(2, 45, 3, seed=4).square(), random(2, 45, 3, seed=5).sigmoid()
    expected, _ = module.torch_recurrent_gated_delta_rule(q, k, v, decay, write, None, False)
    given = [x.transpose(1, 2) for x in (q * 8**-0.5, k, v, decay, write)]
    torch.testing.assert_close(DeltaRule(chunk=16)(*given).transpose(1, 2), expected, rtol=1e-5, atol=1e-5)
