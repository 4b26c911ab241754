"""What a placebo does to a model: one draws and computes the very same, the other adds up in another order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy

from ablab.config.placebo import KINDS, NUDGE
from ablab.model.placebo import HEADS, SMALLEST
from ablab.model.transformer import Transformer
from ablab.training.cost import count_parameters

Build = Callable[..., Transformer]
IDS = torch.randint(11, (4, 12), generator=torch.Generator().manual_seed(0))


def learned(model: Transformer, steps: int = 3) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The logits of each step, and the state of the global generator behind them."""
    torch.manual_seed(0)
    optimizer, seen = torch.optim.SGD(model.train().parameters(), 0.1), []
    for _ in range(steps):
        logits = model(IDS)
        seen.append(logits.detach())
        optimizer.zero_grad()
        cross_entropy(logits.flatten(0, 1), IDS.flatten()).backward()
        optimizer.step()
    return seen, torch.get_rng_state()


@pytest.mark.parametrize("tied", [True, False])
def test_one_draw_in_each_pass_of_the_training_and_nothing_else(build: Build, tied: bool) -> None:
    plain, drawing = (build(placebo=kind, tie_embeddings=tied) for kind in (None, "draw"))
    (before, state), (after, other) = learned(plain), learned(drawing)
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    torch.manual_seed(0)
    for _ in range(3):
        torch.rand(())
    assert torch.equal(other, torch.get_rng_state())
    assert not torch.equal(other, state)
    drawing.eval()(IDS)
    assert torch.equal(other, torch.get_rng_state())


def test_the_draw_moves_dropout_that_is_drawn_from_the_same_generator(build: Build) -> None:
    """And no other: the first pass has its masks before the head has drawn."""
    (before, _), (after, _) = (learned(build(placebo=kind, dropout=0.5)) for kind in (None, "draw"))
    assert torch.equal(before[0], after[0])


@pytest.mark.parametrize("tied", [True, False])
def test_another_order_of_sums_changes_rounding_and_no_more(build: Build, tied: bool) -> None:
    plain, turned = (build(placebo=kind, tie_embeddings=tied, d_model=64) for kind in (None, "order"))
    (before, state), (after, other) = learned(plain), learned(turned)
    assert torch.equal(state, other)
    differences = [(one - two).abs().max().item() for one, two in zip(before, after, strict=True)]
    assert min(differences) > 0
    assert differences[0] < 1e-6
    exact = [model.double()(IDS) for model in (build(d_model=64), build(placebo="order", d_model=64))]
    assert torch.allclose(exact[0], exact[1], rtol=0, atol=1e-14)


def test_a_nudge_moves_one_number_by_a_rounding_and_training_makes_more_of_it(build: Build) -> None:
    plain, nudged = (build(placebo=kind) for kind in (None, NUDGE))
    states = plain.state_dict(), nudged.state_dict()
    moved = {name: (value - states[0][name]).abs() for name, value in states[1].items()}
    changed = [value for value in moved.values() if value.any()]
    assert len(changed) == 1
    assert changed[0].count_nonzero() == 1
    assert changed[0].max().item() == pytest.approx(SMALLEST, rel=0.05)
    (before, state), (after, other) = learned(plain), learned(nudged)
    assert torch.equal(state, other)
    assert 0 < (before[-1] - after[-1]).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_placebo_has_the_parameters_of_what_it_copies(build: Build, kind: str) -> None:
    plain, placebo = build(), build(placebo=kind)
    assert count_parameters(plain) == count_parameters(placebo)
    states = plain.state_dict(), placebo.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert (placebo.head.weight is placebo.embedding.weight) == (plain.head.weight is plain.embedding.weight)


def test_others_are_refused_by_name(build: Build) -> None:
    assert set(HEADS) == {None, *KINDS, NUDGE}
    with pytest.raises(ValueError, match=r"model\.placebo=sugar: must be draw, order or nudge, or null"):
        build(placebo="sugar")
