"""Which token comes next, against a sort written out, and against the probabilities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.model.sampling import GREEDY, Sampler, SettingError

Scores = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=12)
TEMPERATURES = st.sampled_from([1e-300, 1e-30, 0.1, 0.5, 1.0, 100.0, 1e30, 1e300])


def drawn(scores: list[float], count: int, seed: int = 0, **changes: Any) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    sampler, logits = Sampler(**changes), torch.tensor(scores)
    return [sampler.choose(logits, generator) for _ in range(count)]


def by_sorting(scores: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """The scores of the tokens that may be drawn, by one token after the other."""
    order = sorted(scores, reverse=True)[:top_k]
    weights = [math.exp((score - order[0]) / temperature) for score in order]
    kept, together = list[float](), 0.0
    for score, weight in zip(order, weights, strict=True):
        if kept and together >= top_p:
            break
        kept.append(score)
        together += weight / sum(weights)
    return kept


@settings(max_examples=100, deadline=None)
@given(
    scores=Scores, temperature=st.floats(0.05, 20), top_k=st.integers(1, 15), top_p=st.sampled_from([0.0, 0.31, 0.9])
)
def test_those_that_may_be_drawn(scores: list[float], temperature: float, top_k: int, top_p: float) -> None:
    tokens, weights = Sampler(temperature=temperature, top_k=top_k, top_p=top_p).among(torch.tensor(scores))
    expected = by_sorting(scores, temperature, top_k, top_p)
    found = [scores[token] for token in tokens.tolist()]
    if len(found) != len(expected):  # a sum that is as large as top_p to rounding
        exact = by_sorting(scores, temperature, top_k, top_p + (1e-5 if len(found) > len(expected) else -1e-5))
        assert found == exact
    else:
        assert found == expected
    assert len(set(tokens.tolist())) == len(weights)
    assert bool((weights >= 0).all())


@settings(max_examples=50, deadline=None)
@given(scores=Scores, top_k=st.integers(1, 15), temperature=TEMPERATURES, seed=st.integers(0, 100))
def test_top_k_never_takes_another(scores: list[float], top_k: int, temperature: float, seed: int) -> None:
    chosen = drawn(scores, 10, seed, temperature=temperature, top_k=top_k)
    smallest = sorted(scores, reverse=True)[min(top_k, len(scores)) - 1]
    assert all(scores[token] >= smallest for token in chosen)
    assert len(set(chosen)) <= top_k


def test_samples_follow_the_probabilities() -> None:
    """Frequencies of 4,000 draws, within five standard errors, of the softmax at this temperature among the best 3."""
    scores, temperature = [1.0, 3.0, 2.0, -4.0], 2.0
    chosen = torch.tensor(drawn(scores, 4000, temperature=temperature, top_k=3))
    weights = [math.exp(score / temperature) for score in scores[:3]]
    for token, weight in enumerate(weights):
        p = weight / sum(weights)
        assert abs((chosen == token).float().mean().item() - p) < 5 * (p * (1 - p) / 4000) ** 0.5
    assert not (chosen == 3).any()


def test_the_ends_of_temperature() -> None:
    scores = [1.0, 1.1, 0.9]
    assert set(drawn(scores, 50, temperature=1e-3)) == set(drawn(scores, 5, temperature=1e-30)) == {1}
    assert set(drawn(scores, 5, temperature=0)) == {1}
    chosen = torch.tensor(drawn([0.0, 5.0, -5.0], 3000, temperature=1e30)).bincount(minlength=3)
    assert chosen.min() > 1000 - 5 * 26  # all alike: 1,000 each, with a standard deviation of 26


def test_greedy_choices_take_nothing_from_the_generator() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    GREEDY.choose(torch.tensor([0.0, 1.0]), generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("logits", [[0.0, math.nan], [0.0, math.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_diverged(logits: list[float], temperature: float) -> None:
    with pytest.raises(ValueError, match="infinite or NaN: did its training diverge"):
        Sampler(temperature=temperature).choose(torch.tensor(logits), torch.Generator())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": -1.0}, r"temperature=-1\.0: must be at least 0"),
        ({"temperature": math.nan}, "temperature=nan: must be at least 0"),
        ({"top_k": 0}, "top_k=0: must be at least 1"),
        ({"top_p": -0.1}, r"top_p=-0\.1: must lie in 0\.\.1"),
        ({"top_p": math.nan}, r"top_p=nan: must lie in 0\.\.1"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Sampler(**changes)
