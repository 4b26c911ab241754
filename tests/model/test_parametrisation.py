"""The axis `parametrisation`: how parameters grow, what their initial values become, and a model written by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, relu

from ablab.errors import UserError
from ablab.model.parametrisation import Growth, MaximalUpdate, Parametrisation, growths, probe_outputs
from ablab.model.transformer import Transformer
from ablab.training.optimizers.groups import build_optimizer
from ablab.training.optimizers.widths import RATES

Build = Callable[..., Transformer]
BASE, TIMES, HEADS = 16, 4, 2
WIDE = BASE * TIMES
MUP = MaximalUpdate(base_width=BASE, base_head_size=BASE // HEADS)


def mup(build: Build, **changes: Any) -> Transformer:
    model = build(**{"d_model": WIDE, "n_heads": HEADS} | changes)
    MUP.apply(model, build(**changes | {"d_model": BASE, "n_heads": HEADS}))
    return model


def grown(model: Transformer) -> dict[str, Growth]:
    found = growths(model)
    return {name: found[id(parameter)] for name, parameter in model.named_parameters()}


# What grows by hand, from 16 features to 64 with as many heads: fan-in and fan-out.
TABLE = {
    ("full", "dense", "plain"): {
        "embedding.weight": (1, 4),
        "position.weight": (1, 4),
        "norm.weight": (1, 4),
        "blocks.0.attention.query.weight": (4, 4),
        "blocks.0.attention.query.bias": (1, 4),
        "blocks.1.feed_forward.up.weight": (4, 4),
        "blocks.1.feed_forward.down.weight": (4, 4),
    },
    ("mla", "moe", "attention"): {
        "blocks.0.attention.latent.0.weight": (4, 4),  # the latent is as wide as half of the stream
        "blocks.0.attention.key.weight": (4, 4),
        "blocks.0.feed_forward.router.weight": (4, 1),  # a score for each of so many experts
        "blocks.0.feed_forward.experts.up": (4, 4),
        "blocks.0.feed_forward.experts.down": (4, 4),
        "blocks.1.attention_residual.query": (4, 1),  # a product with the stream gives one number
    },
    ("gated_delta", "dense", "hyper"): {
        "blocks.0.attention.convolution.weight": (1, 4),  # each channel by itself, of four taps
        "blocks.0.attention_residual.moving": (4, 1),
        "blocks.0.attention_residual.mix": (1, 1),
    },
    ("csa", "dense", "mhc"): {
        "blocks.0.attention.compressor.place": (1, 4),
        "blocks.0.attention.compressor.gate.weight": (4, 4),
        "blocks.0.attention.indexer.weight.weight": (4, 1),  # a weight for each of four heads
        "blocks.0.attention_residual.weight": (4, 1),
    },
}


@pytest.mark.parametrize("options", TABLE, ids="+".join)
def test_growth_by_hand(options: tuple[str, str, str], build: Build) -> None:
    attention, feed_forward, residual = options
    found = grown(mup(build, attention=attention, feed_forward=feed_forward, residual=residual))
    wanted = TABLE[options]
    for name, (fan_in, fan_out) in wanted.items():  # experts' hidden units are rounded
        assert (found[name].fan_in, found[name].fan_out) == pytest.approx((fan_in, fan_out), rel=0.02), name


# Table 3 of the source for wide models over base width n, and the spectral condition: hidden, input, output weights.
@pytest.mark.parametrize(
    ("growth", "initial", "adam", "sgd", "muon"),
    [
        (Growth(4, 4, 4), 1 / 2, 1 / 4, 1, 1 / 2),
        (Growth(1, 4, 4), 1, 1, 4, 1),
        (Growth(4, 1, 4), 1 / 4, 1 / 4, 1 / 4, 1 / 4),
        (Growth(1, 1, 1), 1, 1, 1, 1),
        (Growth(1 / 4, 1 / 4, 1 / 4), 2, 4, 1, 2),  # narrower than the base
    ],
)
def test_factors_by_hand(growth: Growth, initial: float, adam: float, sgd: float, muon: float) -> None:
    assert growth.initial == pytest.approx(initial)
    found = [RATES[rule](growth) for rule in ("elementwise", "gradient", "spectral")]
    assert found == pytest.approx([adam, sgd, muon])


def test_multipliers_by_hand(build: Build) -> None:
    model = mup(build)
    assert model.output_factor == 1 / TIMES
    assert query_factor(model) == math.sqrt(1 / TIMES)
    shared = mup(build, attention=lambda spec: load_shared(spec))
    assert query_factor(shared) == 1  # keys of length one: products do not grow with the head
    heads = build(d_model=WIDE, n_heads=HEADS * TIMES)
    MUP.apply(heads, build(d_model=BASE, n_heads=HEADS))
    assert query_factor(heads) == 1  # more heads of the same size


def query_factor(model: Transformer) -> float:
    return next(model.layers())[1].attention.query_factor


def load_shared(spec: Any) -> nn.Module:
    from ablab.model.attention.full import FullAttention

    return FullAttention(spec, share_qk=True)


def test_initial_values_are_the_standards_times_a_factor_for_every_option(
    build: Build, menu: dict[str, list[str]]
) -> None:
    """Common random numbers stay: nothing is drawn anew. A model of the base width is the standard to the last bit."""
    for axis in ("attention", "feed_forward", "residual", "position", "layer_fusion", "objective"):
        for option in menu[axis]:
            base = build(**{axis: option, "d_model": BASE})
            for plain in (base, build(**{axis: option, "d_model": WIDE})):
                ours = copy.deepcopy(plain)
                MUP.apply(ours, base)
                growth = grown(ours)
                for name, value in plain.named_parameters():
                    follows = ".compress_" in name and name.endswith(("into.weight", "out.weight"))
                    factor = 1.0 if follows else growth[name].initial  # their own are smaller by themselves
                    torch.testing.assert_close(ours.get_parameter(name), value * factor, rtol=1e-6, atol=0, msg=name)
                    assert plain is not base or torch.equal(ours.get_parameter(name), value), (option, name)
                if plain is base:
                    assert probe_outputs(ours)[""] == pytest.approx(probe_outputs(base)[""]), option


def test_sizes_of_the_base() -> None:
    sizes = {"d_model": 512, "n_heads": 16, "n_kv_heads": 4, "d_ff": 1536}
    wanted = {"model.d_model": 64, "model.n_heads": 4, "model.n_kv_heads": 1, "model.d_ff": 192}
    assert MaximalUpdate().base_values(sizes) == wanted
    own = {"model.d_ff": 100, "attention.kv_rank": 8}
    assert MaximalUpdate(base=own).base_values(sizes) == wanted | own
    assert Parametrisation().base_values(sizes) is None
    with pytest.raises(ValueError, match=r"parametrisation.base_head_size=10 does not divide"):
        MaximalUpdate(base_head_size=10)


def test_a_base_of_other_parts_is_refused(build: Build) -> None:
    with pytest.raises(UserError, match=r"parametrisation.base_width: the model of that width has no blocks.1"):
        MUP.apply(build(n_layers=2), build(n_layers=1))


@pytest.mark.parametrize("tied", [True, False])
def test_three_steps_are_those_of_a_model_written_by_hand(tied: bool, build: Build) -> None:
    """A transformer of one layer in the maximal update parametrisation of table 8, trained by Adam: all anew."""
    generator = torch.Generator().manual_seed(0)
    ids, targets = torch.randint(11, (2, 3, 12), generator=generator)
    ours = mup(build, n_layers=1, tie_embeddings=tied).double()
    theirs = {name: value.double() for name, value in by_hand(build, tied).items()}
    optimizer = build_optimizer(lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1), ours)
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in theirs.items()}
    for step in range(1, 4):
        optimizer.zero_grad()
        cross_entropy(ours(ids), targets).backward()
        optimizer.step()
        for value in theirs.values():
            value.requires_grad_()
        loss = cross_entropy(answer(theirs, ids), targets)
        gradients = dict(zip(theirs, torch.autograd.grad(loss, list(theirs.values())), strict=True))
        theirs = {name: adam(name, value, gradients[name], moments[name], step) for name, value in theirs.items()}
    torch.testing.assert_close(ours(ids), answer(theirs, ids), rtol=0, atol=1e-10)
    unscaled = by_hand(build, tied, scaled=False)
    assert not torch.allclose(answer({name: value.double() for name, value in unscaled.items()}, ids), ours(ids))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def is_hidden(name: str, value: Tensor) -> bool:
    return value.dim() == 2 and name.startswith("blocks.")


def by_hand(build: Build, tied: bool, scaled: bool = True) -> dict[str, Tensor]:
    """The standard's values, hidden matrices of which are smaller by the root of how many times they are as wide."""
    plain = build(d_model=WIDE, n_heads=HEADS, n_layers=1, tie_embeddings=tied)
    return {
        name: value.detach() / math.sqrt(TIMES if scaled and is_hidden(name, value) else 1)
        for name, value in plain.named_parameters()
    }


def answer(p: dict[str, Tensor], ids: Tensor) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ p[f"blocks.0.{name}.weight"].mT + p[f"blocks.0.{name}.bias"]

    x = p["embedding.weight"][ids] + p["position.weight"][: ids.shape[1]]
    y = norm(x, "blocks.0.attention_norm")
    q, k, v = (linear(y, f"attention.{each}").unflatten(-1, (HEADS, -1)) for each in ("query", "key", "value"))
    size, base = WIDE // HEADS, BASE // HEADS
    scores = torch.einsum("bshd,bthd->bhst", q, k) * math.sqrt(base) / size  # by 1 / size, as at the base there
    future = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
    mixed = torch.einsum("bhst,bthd->bshd", scores.masked_fill(future, -math.inf).softmax(-1), v)
    x = x + linear(mixed.flatten(2), "attention.output")
    y = norm(x, "blocks.0.feed_forward_norm")
    x = x + linear(relu(linear(y, "feed_forward.up")), "feed_forward.down")
    head = p.get("head.weight", p["embedding.weight"])
    return norm(x, "norm") @ head.mT / TIMES


def adam(name: str, value: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], step: int) -> Tensor:
    hidden, head = is_hidden(name, value), name == "head.weight"
    first, second = moments
    first.mul_(0.9).add_(0.1 * gradient)
    second.mul_(0.999).add_(0.001 * gradient**2)
    update = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    rate = 0.01 / TIMES if hidden else 0.01
    decay = 0.01 * 0.1 if hidden or head else 0.0  # per step, at every width
    return (value * (1 - decay) - rate * update).detach()
