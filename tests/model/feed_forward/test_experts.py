"""Experts give what a loop over tokens and experts gives, and cost what they say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ablab.config import RunConfig
from ablab.model.activation.stateless import GELU, ReLU, SwiGLU
from ablab.model.feed_forward import stacked
from ablab.model.feed_forward.base import FeedForward
from ablab.model.feed_forward.experts import HashedExperts, MixtureOfExperts
from ablab.model.feed_forward.grouped import grouped_product, in_one_kernel, one_by_one
from ablab.model.feed_forward.probe import ExpertsWatcher
from ablab.model.feed_forward.routing import hashed_experts
from ablab.model.initialisation import initialise
from ablab.model.spec import LayerSpec
from ablab.training.build import BuiltRun
from ablab.training.optimizers.groups import build_optimizer

TinyConfig = Callable[..., RunConfig]
HASH = 3 * 2  # of the seed, the layers and the layer of `spec`


def spec(**sizes: Any) -> LayerSpec:
    usual: dict[str, Any] = {"d_model": 6, "n_heads": 2, "d_ff": 12, "layer_index": 0, "n_layers": 2}
    return LayerSpec(**{**usual, "max_length": 16, "causal": True, "seed": 3, **sizes})


def made(
    option: Callable[..., FeedForward] = MixtureOfExperts, activation: Any = GELU, seed: int = 0, **its: Any
) -> Any:
    part = option(spec(), activation=activation, **its)
    initialise(nn.ModuleDict({"part": part}), seed)
    with torch.no_grad():  # large enough for experts to differ
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in part.named_parameters():
            parameter.mul_(30)
            if "bias" in name:  # which are zero
                parameter.normal_(generator=generator)
    return part.double()


def naive(part: MixtureOfExperts, x: Tensor, ids: Tensor | None = None) -> Tensor:
    """Token by token, expert by expert, as the sources write it."""
    out = []
    for b, sequence in enumerate(x):
        for t, token in enumerate(sequence):
            logits = part.router.weight @ token
            scores = torch.sigmoid(logits if part.router.logit_bias is None else logits + part.router.logit_bias)
            if ids is None:
                chosen = (scores + part.router.bias).topk(part.top_k).indices.tolist()
            else:
                chosen = hashed_experts(ids, part.n_experts, part.top_k, HASH)[b, t].tolist()
            total = scores[chosen].sum()
            y = torch.zeros_like(token)
            for e in chosen:
                up, down = part.experts.up_bias, part.experts.down_bias
                hidden = token @ part.experts.up[e] + (0 if up is None else up[e])
                hidden = part.experts.activation(hidden[None, None])[0, 0]
                given = hidden @ part.experts.down[e] + (0 if down is None else down[e])
                y = y + scores[e] / total * part.router.scale * given
            if part.shared is not None:
                gate = 1.0 if part.shared_gate is None else torch.sigmoid(part.shared_gate.weight[0] @ token)
                y = y + gate * part.shared(token[None, None])[0, 0]
            out.append(y)
    return torch.stack(out).view_as(x)


@settings(max_examples=25)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 5),
    experts=st.integers(1, 5),
    k=st.integers(1, 5),
    shared=st.integers(0, 2),
    gated=st.booleans(),
    extras=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 9),
)
def test_outputs_and_gradients_are_those_of_a_loop(
    batch: int, length: int, experts: int, k: int, shared: int, gated: bool, extras: tuple[bool, bool, bool], seed: int
) -> None:
    part = made(
        activation=SwiGLU if gated else ReLU,
        seed=seed,
        n_experts=experts,
        top_k=min(k, experts),
        n_shared=shared,
        d_expert=3,
        scale=1.5,
        shared_gate=extras[0] and shared > 0,
        expert_bias=extras[1],
        router_bias=extras[2],
    )
    x = torch.randn(batch, length, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x.requires_grad_()
    leaves = [x, *part.parameters()]
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one, other = part(x), naive(part, x)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    for own, theirs in zip(
        torch.autograd.grad((one * weights).sum(), leaves, allow_unused=True, materialize_grads=True),
        torch.autograd.grad((other * weights).sum(), leaves, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(own, theirs, rtol=1e-9, atol=1e-9)


def test_a_batch_that_goes_to_one_expert_works() -> None:
    part = made(n_experts=4, top_k=1, n_shared=0)
    part.router.bias[2] = 10.0  # chooses
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    assert part.router(x).chosen.unique().tolist() == [2]
    torch.testing.assert_close(part(x), naive(part, x), rtol=0, atol=1e-10)
    part(x).sum().backward()
    assert part.experts.up.grad[2].abs().sum() > 0
    assert part.experts.up.grad[[0, 1, 3]].abs().sum() == 0


def test_rows_meet_the_matrix_of_their_group() -> None:
    counts = torch.tensor([0, 3, 0, 2])
    rows, weight = torch.randn(5, 4), torch.randn(4, 4, 3)
    expected = torch.stack([row @ weight[group] for row, group in zip(rows, [1, 1, 1, 3, 3], strict=True)])
    torch.testing.assert_close(grouped_product(rows, weight, counts), expected)


@pytest.mark.parametrize("counts", [[5], [0, 5, 0, 0], [1, 0, 0, 0], [0, 3, 0, 2], [2, 1, 4, 3]])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 8), (16, 85), (5, 16), (3, 1)])
def test_one_kernel_for_all_groups_gives_what_a_product_for_each_does(
    counts: list[int], inputs: int, outputs: int
) -> None:
    """What GPUs take in bfloat16, of any sizes: all tokens to one expert, none to some, a single token."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(sum(counts), inputs, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(len(counts), inputs, outputs, generator=generator).bfloat16().requires_grad_()
    found = [product(rows, weight, torch.tensor(counts)) for product in (in_one_kernel, one_by_one)]
    torch.testing.assert_close(*found)
    gradient = torch.randn(found[0].shape, generator=generator).bfloat16()
    gradients = (torch.autograd.grad(each, [rows, weight], gradient) for each in found)
    torch.testing.assert_close(*gradients, rtol=0.02, atol=0.05)


def test_a_layer_on_a_gpu_is_that_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that it takes there, with the kernel's stand-in for CPUs."""
    part, x = made(n_experts=4, top_k=2, d_expert=5).float(), torch.randn(2, 7, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = part(x)
        monkeypatch.setattr(stacked, "grouped_product", lambda *given: one_by_one(*bfloat16(*given)))
        expected = part(x)
        torch.testing.assert_close(found.float(), expected.float(), rtol=0.05, atol=0.05)


@settings(max_examples=20, deadline=None)
@given(
    tokens=st.integers(1, 9),
    k=st.integers(1, 3),
    biased=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    cast=st.booleans(),
)
def test_experts_that_take_turns_give_what_all_give_at_once(
    tokens: int, k: int, biased: bool, dtype: torch.dtype, cast: bool
) -> None:
    """In evaluation, if they have enough to do; others, and all in training, are computed together."""
    part = made(activation=SwiGLU, n_experts=4, top_k=k, expert_bias=biased).to(dtype)
    x = torch.randn(1, tokens, 6, generator=torch.Generator().manual_seed(tokens)).to(dtype)
    rows: list[int] = []  # of each call of the experts' activation
    part.experts.activation.register_forward_hook(lambda module, args, output: rows.append(args[0].shape[1]))

    def found(enough: int, *, train: bool, gradients: bool = False) -> tuple[Tensor, list[int]]:
        rows.clear()
        with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16, enabled=cast):
            patch.setattr(stacked, "_WORTHWHILE", enough)
            with torch.set_grad_enabled(gradients):
                return part.train(train)(x).detach(), sorted(rows)

    one, in_turn = found(0, train=False)
    loads = torch.bincount(part.router(x).chosen.flatten())
    assert in_turn == sorted(loads[loads > 0].tolist())
    for enough, train, gradients in ((0, True, False), (0, False, True), (2**30, False, False)):
        other, at_once = found(enough, train=train, gradients=gradients)
        assert at_once == [tokens * k]
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0.02 if cast else None, atol=0.1 if cast else None)


def bfloat16(rows: Tensor, weight: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return rows.bfloat16(), weight.bfloat16(), counts


def test_more_experts_leave_those_there_were_as_they_were() -> None:
    """A study over their number compares equal starts."""
    few, many = (MixtureOfExperts(spec(), activation=GELU, n_experts=n) for n in (4, 9))
    for part in (few, many):
        initialise(nn.ModuleDict({"part": part}), 5)
    torch.testing.assert_close(few.experts.up, many.experts.up[:4], rtol=0, atol=0)
    torch.testing.assert_close(few.experts.down, many.experts.down[:4], rtol=0, atol=0)
    assert float(few.experts.up.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert float(few.experts.down.detach().std()) == pytest.approx(0.02 / 2, rel=0.2)  # sqrt(2 layers)


def test_a_token_costs_what_it_costs_in_a_dense_part(tiny_config: TinyConfig) -> None:
    sizes = ("model.bias=false", "model.d_ff=48", "activation=relu")
    dense = BuiltRun.of(tiny_config(*sizes))
    moe = BuiltRun.of(tiny_config(*sizes, "feed_forward=moe"))
    router = 8 * 16
    # Of forward and backward, two operations for each product; and the gates' own, two experts wide.
    extra = 3 * 2 * 32 * (router + 2 * 16) * 4
    assert dense.cost.parameters is not None
    assert dense.cost.flops_per_step is not None
    assert moe.cost.flops_per_step == dense.cost.flops_per_step + extra
    assert moe.cost.active_parameters == dense.cost.parameters + router
    assert moe.cost.parameters == dense.cost.parameters + router + 6 * 2 * 16 * 16
    assert dense.cost.active_parameters == dense.cost.parameters


def test_biases_of_experts_are_inactive_with_them_and_never_decayed(tiny_config: TinyConfig) -> None:
    plain, biased = (
        BuiltRun.of(tiny_config("feed_forward=moe", *extra))
        for extra in ((), ("feed_forward.expert_bias=true", "feed_forward.router_bias=true"))
    )
    assert plain.cost.parameters is not None
    assert plain.cost.active_parameters is not None
    block: Any = biased.shapes.blocks[0]
    each = sum(bias.shape[1] for bias in (block.feed_forward.experts.up_bias, block.feed_forward.experts.down_bias))
    assert biased.cost.parameters == plain.cost.parameters + 8 * each + 8
    assert biased.cost.active_parameters == plain.cost.active_parameters + 2 * each + 8
    groups = build_optimizer(torch.optim.AdamW, biased.build_model()).param_groups
    assert {group["name"]: {p.dim() for p in group["params"]} for group in groups if group["name"] == "experts"} == {
        "experts": {3}
    }
    decayed = sum(p.numel() for group in groups if group["weight_decay"] for p in group["params"])
    usual = build_optimizer(torch.optim.AdamW, plain.build_model()).param_groups
    assert decayed == sum(p.numel() for group in usual if group["weight_decay"] for p in group["params"])


@pytest.mark.parametrize(
    ("its", "said"),
    [
        ({"top_k": 9}, "feed_forward.top_k=9"),
        ({"n_experts": 0}, "feed_forward.n_experts must be at least 1"),
        ({"n_shared": -1}, "feed_forward.n_shared must be at least 0"),
        ({"d_expert": 0}, "feed_forward.d_expert must be at least 1"),
        ({"bias_speed": -0.1}, "feed_forward.bias_speed=-0.1"),
        ({"shared_gate": True, "n_shared": 0}, "feed_forward.shared_gate=true: feed_forward.n_shared=0 leaves"),
        ({"score": "tanh"}, "score=tanh: must be softmax, sigmoid, sqrtsoftplus"),
    ],
)
def test_numbers_out_of_range_are_refused(its: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MixtureOfExperts(spec(), activation=GELU, **its)


def test_hashed_experts_go_by_the_token_alone() -> None:
    part = made(partial(HashedExperts, score="sigmoid"), n_experts=5, top_k=2)
    x, ids = torch.randn(2, 8, 6, dtype=torch.float64), torch.randint(50, (2, 8))
    torch.testing.assert_close(part(x, None, ids), naive(part, x, ids), rtol=0, atol=1e-10)
    again = part.router(torch.randn_like(x), None, part._given(ids))
    assert torch.equal(again.chosen, part.router(x, None, part._given(ids)).chosen)
    with pytest.raises(ValueError, match="feed_forward=moe"):
        part(x)


@pytest.mark.parametrize("gated", [False, True])
def test_what_the_watcher_counts_is_what_the_router_chose(gated: bool) -> None:
    part = made(n_experts=4, top_k=2, n_shared=1, shared_gate=gated)
    x, mask = torch.randn(3, 5, 6, dtype=torch.float64), torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = True
    watcher = ExpertsWatcher("feed_forward", 0, part)
    handles = watcher.attach()
    part.eval()(x, mask)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        chosen, _, scores = part.router(x, mask)
        shared = part.shared_gate(x).sigmoid()[~mask].mean().item() if gated else 1.0
    counts = torch.bincount(chosen[~mask].flatten(), minlength=4).double()
    share = counts / counts.sum()
    of_scores = scores[~mask] / scores[~mask].sum(-1, keepdim=True)
    log4 = torch.tensor(4.0).log()
    assert watcher.metrics() == pytest.approx(
        {
            "load_violation": float(counts.max() / counts.mean() - 1),
            "load_entropy": float(-(share * share.clamp(min=1e-30).log()).sum() / log4),
            "router_entropy": float(-(of_scores * of_scores.log()).sum(-1).mean() / log4),
            "dead_experts": float((counts == 0).double().mean()),
            "shared_share": shared / (shared + 1),  # of the others the gates add up to one
        },
        rel=1e-5,
    )
