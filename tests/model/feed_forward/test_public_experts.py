"""Experts beside the published models' own layers, with their weights: the same outputs and the same gradients."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.activation.stateless import SwiGLU
from ablab.model.feed_forward.experts import HashedExperts, MixtureOfExperts
from ablab.model.feed_forward.routing import BalanceLoss, hashed_experts
from ablab.model.spec import LayerSpec

pytest.importorskip("transformers", reason="the extra `bench` is not installed")

WIDTH, UNITS, EXPERTS, TOP_K, WORDS = 16, 6, 8, 3, 40
SPEC = LayerSpec(
    d_model=WIDTH, n_heads=2, d_ff=32, layer_index=1, n_layers=2, max_length=64, causal=True, seed=5, bias=False
)
COMMON = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_key_value_heads": 2,
    "moe_intermediate_size": UNITS,
    "num_experts_per_tok": TOP_K,
    "hidden_act": "silu",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
DEEPSEEK = {"n_routed_experts": EXPERTS, "n_group": 1, "topk_group": 1}
DEEPSEEK_V4 = {"n_routed_experts": EXPERTS, "scoring_func": "sqrtsoftplus", "routed_scaling_factor": 1.5}


@dataclass(frozen=True)
class Public:
    """A layer of `transformers`, and what it is here."""

    layer: str  # module and class
    settings: dict[str, Any]  # of its config, beside the common ones
    ours: dict[str, Any]  # the settings of ours that make it the same
    option: Callable[..., MixtureOfExperts] = MixtureOfExperts
    arguments: tuple[Any, ...] = ()  # of the layer, after its config

    def make(self) -> Any:
        model, name = self.layer.split(".")
        configs = importlib.import_module(f"transformers.models.{model}.configuration_{model}")
        (kind,) = (each for key, each in vars(configs).items() if key.endswith("Config") and key.startswith(name[:5]))
        config = kind(**COMMON | self.settings)
        config._experts_implementation = "eager"
        return getattr(self.module, name)(config, *self.arguments)

    @property
    def module(self) -> Any:
        model = self.layer.split(".")[0]
        return importlib.import_module(f"transformers.models.{model}.modeling_{model}")


LAYERS = {
    "deepseek_v2": Public(
        "deepseek_v2.DeepseekV2Moe",
        DEEPSEEK | {"n_shared_experts": 2, "routed_scaling_factor": 1.5, "topk_method": "greedy"},
        {"score": "softmax", "renormalise": False, "scale": 1.5, "n_shared": 2},
    ),
    "deepseek_v2, limited to groups": Public(
        "deepseek_v2.DeepseekV2Moe",
        {"n_routed_experts": EXPERTS, "n_group": 4, "topk_group": 2, "n_shared_experts": 1}
        | {"routed_scaling_factor": 1.0, "topk_method": "group_limited_greedy"},
        {"score": "softmax", "renormalise": False, "n_shared": 1, "n_groups": 4, "top_groups": 2, "group_best": 1},
    ),
    "deepseek_v3, limited to groups": Public(
        "deepseek_v3.DeepseekV3MoE",
        {"n_routed_experts": EXPERTS, "n_group": 4, "topk_group": 2, "n_shared_experts": 1},
        {"score": "sigmoid", "scale": 2.5, "n_shared": 1, "n_groups": 4, "top_groups": 2},
    ),
    "deepseek_v3": Public(
        "deepseek_v3.DeepseekV3MoE",
        DEEPSEEK | {"n_shared_experts": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": True},
        {"score": "sigmoid", "scale": 2.5, "n_shared": 2},
    ),
    "deepseek_v3, gates as they are": Public(
        "deepseek_v3.DeepseekV3MoE",
        DEEPSEEK | {"n_shared_experts": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": False},
        {"score": "sigmoid", "renormalise": False, "n_shared": 1},
    ),
    "deepseek_v4": Public(
        "deepseek_v4.DeepseekV4SparseMoeBlock",
        DEEPSEEK_V4 | {"mlp_layer_types": ["moe", "moe"]},
        {"score": "sqrtsoftplus", "scale": 1.5, "n_shared": 1},
        arguments=(1,),
    ),
    "deepseek_v4, by the token": Public(
        "deepseek_v4.DeepseekV4SparseMoeBlock",
        DEEPSEEK_V4 | {"mlp_layer_types": ["moe", "hash_moe"]},
        {"score": "sqrtsoftplus", "scale": 1.5, "n_shared": 1},
        option=HashedExperts,
        arguments=(1,),
    ),
    "qwen3_moe": Public(
        "qwen3_moe.Qwen3MoeSparseMoeBlock",
        {"num_experts": EXPERTS, "norm_topk_prob": True},
        {"score": "softmax", "n_shared": 0},
    ),
    "mixtral": Public(
        "mixtral.MixtralSparseMoeBlock",
        {"num_local_experts": EXPERTS, "intermediate_size": UNITS},
        {"score": "softmax", "n_shared": 0},
    ),
}


def made(public: Public) -> tuple[Any, MixtureOfExperts]:
    """Theirs, and ours with its weights: of a layer with a bias for the choice one that changes many choices."""
    theirs = public.make()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    # Three times the hidden units of a gated expert are twice those of a plain one.
    ours = public.option(
        SPEC, activation=SwiGLU, n_experts=EXPERTS, top_k=TOP_K, d_expert=UNITS * 3 // 2, **public.ours
    )
    gate = theirs.gate
    with torch.no_grad():
        for name, value in gate.named_buffers():
            if name == "tid2eid":
                value.copy_(hashed_experts(torch.arange(WORDS), EXPERTS, TOP_K, SPEC.seed * 2 + 1))
            else:
                value.copy_(torch.randn(EXPERTS, generator=generator))
                ours.router.bias.copy_(value)
        ours.router.weight.copy_(gate.weight)
        for own, theirs_ in paired(theirs, ours):
            own.copy_(theirs_)
    return theirs, ours


def paired(theirs: Any, ours: MixtureOfExperts, read: Callable[[Tensor], Tensor] = lambda p: p) -> list[Any]:
    """What `read` has of the weights of ours and of theirs, in our layout."""
    pairs = [
        (read(ours.experts.up), read(theirs.experts.gate_up_proj).mT),
        (read(ours.experts.down), read(theirs.experts.down_proj).mT),
        (read(ours.router.weight), read(theirs.gate.weight)),
    ]
    if ours.shared is not None:
        shared = theirs.shared_experts
        up = torch.cat([read(shared.gate_proj.weight), read(shared.up_proj.weight)])
        pairs += [
            (read(ours.shared.up.weight), up),
            (read(ours.shared.down.weight), read(shared.down_proj.weight)),
        ]
    return pairs


def run(layer: Any, x: Tensor, ids: Tensor, ours: bool) -> Tensor:
    """What it gives, its gradients left at its parameters and at x."""
    by_token = isinstance(layer, HashedExperts) or getattr(layer, "is_hash", False)
    found = (layer(x, None, ids) if ours else layer(x, ids)) if by_token else layer(x)
    y: Tensor = found[0] if isinstance(found, tuple) else found
    (y * torch.linspace(-1, 1, WIDTH, dtype=y.dtype)).square().sum().backward()
    return y


def check(theirs: Any, ours: MixtureOfExperts, dtype: torch.dtype, tolerance: float) -> None:
    for length in (1, 7, 33):
        generator = torch.Generator().manual_seed(length)
        x = torch.randn(2, length, WIDTH, generator=generator, dtype=dtype).requires_grad_()
        other = x.detach().clone().requires_grad_()
        ids = torch.randint(WORDS, (2, length), generator=generator)
        for layer in (theirs, ours):
            layer.zero_grad()
        torch.testing.assert_close(
            run(ours, x, ids, ours=True), run(theirs, other, ids, ours=False), rtol=tolerance, atol=tolerance
        )
        pairs = [(x.grad, other.grad), *paired(theirs, ours, gradient)]
        for own, its in pairs:
            size = float(its.abs().max())
            torch.testing.assert_close(own, its, rtol=tolerance, atol=tolerance * max(1.0, size))


def gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@pytest.mark.parametrize("name", LAYERS)
def test_the_same_outputs_and_gradients(name: str) -> None:
    theirs, ours = made(LAYERS[name])
    check(theirs, ours, torch.float32, 1e-5)


class InDouble:
    """`torch` for a module that computes in float32 whatever it is given, with float64 in its place."""

    float = float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.mark.parametrize("name", LAYERS)
def test_the_same_to_the_last_digits_in_double(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = made(LAYERS[name])
    monkeypatch.setattr(LAYERS[name].module, "torch", InDouble())
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    check(theirs.double(), ours.double(), torch.float64, 1e-9)


def test_the_balance_loss_is_theirs_for_each_choice() -> None:
    """`transformers` leaves out the division by the choices of a token, which Lepikhin et al. have."""
    _, ours = made(LAYERS["mixtral"])
    x, mask = torch.randn(3, 9, WIDTH, generator=torch.Generator().manual_seed(1)), torch.zeros(3, 9, dtype=torch.bool)
    mask[1, 5:] = True
    logits = nn.functional.linear(x, ours.router.weight).flatten(0, 1)
    loss = BalanceLoss(weight=1.0, sequence_weight=0.0)
    loss(ours.router(x, mask), mask)
    theirs = LAYERS["mixtral"].module.load_balancing_loss_func((logits,), EXPERTS, TOP_K, (~mask).long())
    torch.testing.assert_close(loss.penalty() * TOP_K, theirs)
