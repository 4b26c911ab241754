"""Multi-token prediction against a loop over sequences, depths and positions, and against mistakes that were made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ablab.model.context import LayerContext
from ablab.model.mechanism import MechanismProbe
from ablab.model.objective.base import IGNORED, Asked
from ablab.model.objective.multi_token import DepthModule, MultiToken
from ablab.model.transformer import Transformer
from ablab.tasks.base import IGNORED as OF_TASKS

Build = Callable[..., Transformer]
Load = Callable[..., Any]
PADDING = 10  # the last of the tokens that `build` knows
Terms = dict[tuple[int, int, int], tuple[Tensor, Tensor]]  # (sequence, depth, position) -> nats, logits


def ahead(build: Build, load_option: Load, objective: dict[str, Any], **changes: Any) -> Transformer:
    """A model in float64 whose numbers are large enough to tell mistakes."""
    made = load_option("objective", "multi_token", **objective)
    model = build(objective=made, max_length=24, padding=PADDING, **changes).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.ndim > 1 else parameter
    return model


def batch(samples: int, length: int, seed: int, padded: bool = True) -> tuple[Tensor, Tensor]:
    """Tokens, of which the ends of some sequences are padding, and targets, of which some are ignored."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(PADDING, (samples, length + 1), generator=generator)
    ids, targets = ids[:, :-1].clone(), ids[:, 1:].clone()
    if padded:
        for row in range(1, samples):
            end = int(torch.randint(length // 2, length, (), generator=generator))
            ids[row, end:], targets[row, end - 1 :] = PADDING, IGNORED
    return ids, targets.masked_fill(torch.rand(targets.shape, generator=generator) < 0.2, IGNORED)


def reference(model: Transformer, ids: Tensor, targets: Tensor, depth: int) -> Terms:
    """Each position of each depth by itself, of the tokens up to it alone."""
    objective, found = model.objective, {}
    assert isinstance(objective, MultiToken)
    assert isinstance(model.embedding, nn.Embedding)
    x, mask = model.enter(ids)
    context = model.context(ids, mask)
    whole = model.hidden(model.through(range(len(model.blocks)), [model.ends.begin(x)], context), mask)
    for row, length in enumerate((ids != PADDING).sum(1).tolist()):
        known = list(whole[row, :length])
        for k in range(1, depth + 1):
            module: Any = objective.depths[k - 1]
            joined = [
                module.join.weight
                @ torch.cat([module.hidden_norm(known[i]), module.token_norm(model.embedding.weight[ids[row, i + k]])])
                for i in range(length - k)
            ]
            known = []
            for i in range(length - k):
                begun = module.ends.begin(torch.stack(joined[: i + 1])[None])
                here = LayerContext(rotate=model.position.rotate, ids=ids[row : row + 1, k : i + 1 + k])
                known.append(module.ends(module.block(begun, here))[0, -1])
                logits = model.head.weight @ module.norm(known[-1])
                target = int(targets[row, i + k])
                if target != IGNORED:
                    found[row, k, i] = -logits.log_softmax(-1)[target], logits
    return found


def expected(terms: Terms, depth: int, weight: float) -> Tensor:
    of_depth = [[nats for (_, k, _), (nats, _) in terms.items() if k == each] for each in range(1, depth + 1)]
    zero = torch.zeros((), dtype=torch.float64)
    return weight / depth * sum((torch.stack(own).mean() if own else zero for own in of_depth), zero)


def check(model: Transformer, ids: Tensor, targets: Tensor, depth: int, weight: float) -> None:
    """Loss and gradients are those of the loop."""
    model(ids, targets=targets)
    own, wanted = model.penalty(), expected(reference(model, ids, targets, depth), depth, weight)
    torch.testing.assert_close(own, wanted, rtol=1e-9, atol=1e-11)
    parameters = [parameter for name, parameter in model.named_parameters() if name != "own"]
    gradients = [
        torch.autograd.grad(each, parameters, allow_unused=True, materialize_grads=True) for each in (own, wanted)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


@settings(max_examples=8)
@given(
    depth=st.integers(1, 3),
    length=st.integers(4, 12),
    samples=st.integers(1, 3),
    parts=st.sampled_from(
        [
            {},
            {"attention": "windowed", "position": "rope", "norm": "rms", "tie_embeddings": False},
            {"position": "alibi", "residual": "mhc", "n_kv_heads": 1},
            {"residual": "hyper", "layer_fusion": "mean", "position": "sinusoidal"},
            {"residual": "attention", "feed_forward": "hash_moe", "norm": "rms"},
        ]
    ),
    seed=st.integers(0, 99),
)
def test_the_loop_gives_the_same(
    depth: int, length: int, samples: int, parts: dict[str, Any], seed: int, build: Build, load_option: Load
) -> None:
    model = ahead(build, load_option, {"depth": depth, "weight": 0.7}, seed=seed, **parts)
    check(model, *batch(samples, length, seed), depth, 0.7)


class OffByOne(MultiToken):
    """Asks for the token that it has just been given."""

    def ahead(self, asked: Asked) -> Iterator[tuple[Tensor, Tensor]]:
        targets = torch.cat([asked.targets[:, :1], asked.targets[:, :-1]], 1)
        yield from super().ahead(replace(asked, targets=targets))


class Leaking(MultiToken):
    """Is given the token that it is asked for."""

    def ahead(self, asked: Asked) -> Iterator[tuple[Tensor, Tensor]]:
        assert asked.context.ids is not None
        ids = asked.context.ids.roll(-1, 1)
        yield from super().ahead(replace(asked, context=replace(asked.context, ids=ids)))


class Unweighed(MultiToken):
    """Adds the mean of its losses as it is."""

    def penalty(self) -> Tensor:
        return super().penalty() / self.weight


class Summed(MultiToken):
    """Adds the sum over the depths, where their mean is asked for."""

    def penalty(self) -> Tensor:
        return super().penalty() * len(self.depths)


class OwnHead(MultiToken):
    """Has a copy of the head, which is alike before training."""

    own: nn.Parameter

    def ahead(self, asked: Asked) -> Iterator[tuple[Tensor, Tensor]]:
        self.own = nn.Parameter(asked.head.__self__.head.weight.detach().clone())  # type: ignore[attr-defined]
        yield from super().ahead(replace(asked, head=lambda x: x @ self.own.T))


class Unaware(MultiToken):
    """Attends to padding, and counts what it is asked there."""

    def ahead(self, asked: Asked) -> Iterator[tuple[Tensor, Tensor]]:
        targets = asked.targets.masked_fill(asked.targets == IGNORED, 0)
        context = replace(asked.context, key_padding_mask=None)
        yield from super().ahead(replace(asked, targets=targets, context=context))


@pytest.mark.parametrize("wrong", [OffByOne, Leaking, Unweighed, Summed, OwnHead, Unaware])
def test_mistakes_are_found(wrong: type[MultiToken], build: Build, load_option: Load) -> None:
    model, (ids, targets) = ahead(build, load_option, {"depth": 2}), batch(2, 9, 1)
    check(model, ids, targets, 2, 0.3)
    model.objective.__class__ = wrong
    model._penalties = [model.objective.penalty]  # type: ignore[list-item]
    with pytest.raises(AssertionError, match=r"not close|not equal"):
        check(model, ids, targets, 2, 0.3)


def by_position(model: Transformer, ids: Tensor, targets: Tensor) -> list[Tensor]:
    """Of each depth the nats of each position."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        assert isinstance(module, MultiToken)
        terms = ((logits.log_softmax(-1), wanted) for logits, wanted in module.ahead(args[0]))
        found.extend(-logs.gather(-1, wanted[..., None])[..., 0] for logs, wanted in terms)

    handle = model.objective.register_forward_hook(keep)
    with torch.no_grad():
        model.eval()(ids, targets=targets)
    handle.remove()
    return found


@pytest.mark.parametrize("wrong", [False, True])
def test_a_token_changes_nothing_that_is_told_before_it(wrong: bool, build: Build, load_option: Load) -> None:
    """Depth k at position i goes by the tokens up to i + k."""
    model, length = ahead(build, load_option, {"depth": 3}), 9
    if wrong:
        model.objective.__class__ = Leaking
    ids, targets = batch(1, length, 3, padded=False)
    targets = targets.clamp(min=0)
    before, early = by_position(model, ids, targets), []
    for place in range(length):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 1) % PADDING
        for k, (one, other) in enumerate(zip(before, by_position(model, changed, targets), strict=True), 1):
            first = max(place - k, 0)
            early.append(not torch.equal(one[0, :first], other[0, :first]))
            if first < length - k:
                assert (one[0, first] != other[0, first]) or wrong
    assert any(early) == wrong


def test_in_evaluation_the_modules_stand_still(build: Build, load_option: Load, tokens: Callable[..., Tensor]) -> None:
    model = build(objective=load_option("objective", "multi_token", depth=2))
    plain, ids, calls = build(), tokens(2, 12), []
    for module in model.objective.modules():
        if isinstance(module, DepthModule):
            module.register_forward_hook(lambda *_: calls.append(1))
    told = model.eval()(ids, targets=ids)
    assert not calls
    assert torch.equal(told, plain.eval()(ids))
    assert torch.equal(model.train()(ids, targets=ids), told)
    assert len(calls) == 2
    model(ids)
    assert len(calls) == 2, "nothing is asked where no target is known"


def test_the_weight_changes_when_it_is_said_to(load_option: Load, build: Build) -> None:
    settings = {"weight": 0.3, "weight_end": 0.1, "end_share": 0.67, "total_steps": 10}
    for more, wanted in (
        ({}, [0.3] * 7 + [0.1] * 3),
        ({"weight_end": None}, [0.3] * 10),
        ({"end_share": 0}, [0.1] * 10),
    ):
        model = build(objective=load_option("objective", "multi_token", **(settings | more)))
        seen = []
        for step in range(10):
            model.resample(step)
            seen.append(model.objective.weight)
        assert seen == wanted


def test_depths_are_told_of_apart(build: Build, load_option: Load) -> None:
    """Loss, accuracy and how many tokens would be accepted, over batches of unequal size."""
    model, depth = ahead(build, load_option, {"depth": 2}).eval(), 2
    batches = [batch(3, 9, 5), batch(1, 11, 6)]
    probe = MechanismProbe(model, strict=True)
    probe.attach()
    with torch.no_grad():
        for ids, targets in batches:
            model(ids, targets=targets)
    probe.detach()
    found = probe.metrics()
    nats: dict[int, list[float]] = {1: [], 2: []}
    right: dict[int, list[bool]] = {1: [], 2: []}
    lengths: list[int] = []
    for ids, targets in batches:
        with torch.no_grad():
            terms, main = reference(model, ids, targets, depth), model(ids).argmax(-1)
        for (row, k, i), (each, logits) in terms.items():
            nats[k].append(float(each))
            right[k].append(int(logits.argmax()) == int(targets[row, i + k]))
            if k == 1 and (row, 2, i) in terms:
                agree = [int(terms[row, one, i][1].argmax()) == int(main[row, i + one]) for one in (1, 2)]
                lengths.append(1 + (agree[0] and 1) + (all(agree) and 1))
    for k in (1, 2):
        assert found[f"objective/loss_depth_{k}"] == pytest.approx(sum(nats[k]) / len(nats[k]), rel=1e-9)
        assert found[f"objective/accuracy_depth_{k}"] == pytest.approx(sum(right[k]) / len(right[k]), rel=1e-9)
    assert found["objective/accepted_length"] == pytest.approx(sum(lengths) / len(lengths))
    assert 1 <= found["objective/accepted_length"] < 3


def test_windows_that_are_too_short_are_refused(build: Build, load_option: Load, tokens: Callable[..., Tensor]) -> None:
    deep = load_option("objective", "multi_token", depth=4)
    with pytest.raises(ValueError, match=r"objective\.depth=4 reaches beyond a window of 4 tokens: give at most 3"):
        build(objective=deep, max_length=4)
    with pytest.raises(ValueError, match=r"objective\.depth=4 reaches beyond a window of 3 tokens"):
        build(objective=deep)(tokens(1, 3), targets=tokens(1, 3))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("depth", 0, "depth must be at least 1"),
        ("weight", -0.1, r"weight must be at least 0, got -0\.1"),
        ("weight_end", math.inf, "weight_end must be at least 0, got inf"),
        ("end_share", 1.1, r"end_share must lie in 0\.\.1, got 1\.1"),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: float, words: str, build: Build, load_option: Load) -> None:
    with pytest.raises(ValueError, match=rf"objective\.{words}"):
        build(objective=load_option("objective", "multi_token", **{key: value}))


def test_targets_are_ignored_alike_everywhere() -> None:
    assert IGNORED == OF_TASKS


def test_half_precision_and_compiled(build: Build, load_option: Load) -> None:
    model, (ids, targets) = ahead(build, load_option, {"depth": 1}, n_layers=1).float(), batch(2, 12, 4)
    model(ids, targets=targets)
    whole = model.penalty().detach()
    with torch.autocast("cpu", torch.bfloat16):
        model(ids, targets=targets)
        halved = model.penalty()
    halved.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.objective.parameters())
    torch.testing.assert_close(halved.detach(), whole, rtol=0.05, atol=0)
    torch.compiler.reset()
    torch.compile(model, backend="aot_eager")(ids, targets=targets)
    torch.testing.assert_close(model.penalty().detach(), whole, rtol=1e-4, atol=1e-5)
