"""Loads are kept even without touching what the experts give, and hashes are as good as drawn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.feed_forward.routing import BalanceLoss, Groups, Router, Routing, Score, hashed_experts, loads


def router(n_experts: int = 4, top_k: int = 2, score: Score = "sigmoid", **its: object) -> Router:
    usual = {"renormalise": True, "scale": 1.0, "bias_speed": 0.1}
    made = Router(8, n_experts, top_k=top_k, score=score, **{**usual, **its})  # type: ignore[arg-type]
    torch.nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(0))
    return made


def test_the_bias_chooses_and_never_weighs() -> None:
    routes, x = router(renormalise=False), torch.randn(2, 6, 8)
    plain = routes(x)
    routes.bias.copy_(torch.tensor([5.0, -5.0, 0.0, 0.0]))
    moved = routes(x)
    assert (moved.chosen == 0).any(-1).all()
    assert not (moved.chosen == 1).any()
    torch.testing.assert_close(moved.gates, plain.scores.gather(-1, moved.chosen))
    assert not routes.bias.requires_grad
    moved.gates.sum().backward()
    assert routes.weight.grad is not None


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("softmax", lambda z: z.exp() / z.exp().sum(-1, keepdim=True)),
        ("sigmoid", lambda z: 1 / (1 + (-z).exp())),
        ("sqrtsoftplus", lambda z: (1 + z.exp()).log().sqrt()),
    ],
)
def test_gates_follow_their_formula(score: Score, expected: object) -> None:
    routes, x = router(score=score, scale=2.5), torch.randn(1, 3, 8)
    scores: Tensor = expected(x @ routes.weight.T)  # type: ignore[operator]
    kept = scores.topk(2, -1)
    torch.testing.assert_close(routes(x).gates, 2.5 * kept.values / kept.values.sum(-1, keepdim=True))
    assert torch.equal(routes(x).chosen, kept.indices)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 4),
    size=st.integers(1, 3),
    kept=st.integers(1, 4),
    best=st.integers(1, 3),
    k=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_experts_come_from_the_groups_of_the_highest_sums(
    count: int, size: int, kept: int, best: int, k: int, seed: int
) -> None:
    """By hand: groups by the sums of their best, then the best of these; biases count in both, and never weigh."""
    kept, best = min(kept, count), min(best, size)
    k = min(k, kept * size if count > 1 else size)
    routes = router(count * size, k, renormalise=False, groups=Groups(count=count, kept=kept, best=best))
    generator = torch.Generator().manual_seed(seed)
    routes.bias.copy_(torch.randn(count * size, generator=generator))
    found = routes(torch.randn(1, 5, 8, generator=generator))
    for scores, chosen, gates in zip(found.scores[0], found.chosen[0], found.gates[0], strict=True):
        biased = (scores + routes.bias).tolist()
        groups = [sorted(biased[g * size : (g + 1) * size], reverse=True) for g in range(count)]
        allowed = sorted(range(count), key=lambda g: -sum(groups[g][:best]))[: kept if count > 1 else 1]
        experts = [g * size + i for g in allowed for i in range(size)]
        assert chosen.tolist() == sorted(experts, key=lambda e: -biased[e])[:k]
        assert torch.equal(gates, scores[chosen])
    visited = routes.groups.visited(found.chosen, count * size)
    assert visited[0].tolist() == [len({int(e) // size for e in token}) for token in found.chosen[0]]
    assert int(visited.max()) <= kept


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (Groups(count=3), "feed_forward.n_groups=3 does not divide feed_forward.n_experts=8"),
        (Groups(kept=4), "feed_forward.top_groups=4: feed_forward.n_groups=1 leaves no groups to choose from"),
        (Groups(count=0), "feed_forward.n_groups must be at least 1"),
        (Groups(count=4, kept=5), "feed_forward.top_groups=5: must lie in 1..4"),
        (Groups(count=4, best=3), "feed_forward.group_best=3: must lie in 1..2"),
        (Groups(count=4, kept=1), "feed_forward.top_groups=1 have 2 experts, fewer than a token has"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups: Groups, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        router(8, 3, groups=groups)


def test_biases_move_by_the_loads_of_all_batches_of_a_step() -> None:
    """Two microbatches that are uneven by themselves and even together leave the biases where they are."""
    routes = router(n_experts=2, top_k=1)
    with torch.no_grad():
        routes.weight.zero_()
        routes.weight[0, 0] = 1.0  # a token goes by the sign of its first number
    there = torch.ones(1, 3, 8)
    routes(there)
    routes(-there)
    routes.after_step()
    assert routes.bias.tolist() == [0.0, 0.0]
    routes(there)
    routes(-there[:, :1])
    routes.after_step()
    assert routes.bias.tolist() == pytest.approx([-0.1, 0.1])
    routes.after_step()  # nothing was routed since
    assert routes.bias.tolist() == pytest.approx([-0.1, 0.1])
    routes.eval()(there)
    routes.after_step()
    assert routes.bias.tolist() == pytest.approx([-0.1, 0.1])


def test_padding_is_no_load() -> None:
    chosen = torch.tensor([[[0, 1], [0, 2]], [[1, 2], [1, 0]]])
    mask = torch.tensor([[False, True], [False, False]])
    assert loads(chosen, 4, mask).tolist() == [[1, 1, 0, 0], [1, 2, 1, 0]]
    assert loads(chosen, 4, None).tolist() == [[2, 1, 1, 0], [1, 2, 1, 0]]


def test_even_loads_follow_from_biases() -> None:
    """A router that prefers one expert is brought to even loads by the biases alone."""
    routes = router(n_experts=4, top_k=1, bias_speed=0.02)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 32, 8, generator=generator) + routes.weight[0].detach()
    before = loads(routes(x).chosen, 4, None).sum(0)
    for _ in range(200):
        routes(x)
        routes.after_step()
    after = loads(routes(x).chosen, 4, None).sum(0)
    assert before.max() / before.mean() > 2
    assert after.max() / after.mean() < 1.2


def asked(routing: Routing, name: str, weight: float, mask: Tensor | None = None) -> float:
    loss = BalanceLoss(**{"weight": 0.0, "sequence_weight": 0.0, name: weight})
    loss(routing, mask)
    return float(loss.penalty().detach())


def test_the_losses_are_one_where_loads_are_even_and_most_where_one_expert_has_all() -> None:
    even = Routing(torch.arange(4).repeat(2).view(2, 4, 1), torch.ones(2, 4, 1), torch.ones(2, 4, 4))
    one_hot = torch.zeros(2, 4, 4)
    one_hot[..., 2] = 1.0
    all_to_one = Routing(torch.full((2, 4, 1), 2), torch.ones(2, 4, 1), one_hot)
    for name in ("weight", "sequence_weight"):
        assert asked(even, name, 0.5) == pytest.approx(0.5)
        assert asked(all_to_one, name, 0.5) == pytest.approx(0.5 * 4)


def test_the_losses_follow_the_papers_sums() -> None:
    routes = router(n_experts=5, top_k=2)
    x, mask = torch.randn(3, 6, 8), torch.zeros(3, 6, dtype=torch.bool)
    mask[1, 4:] = True
    routing = routes(x)
    share = routing.scores / routing.scores.sum(-1, keepdim=True)

    def of(tokens: Tensor) -> float:
        f = torch.bincount(routing.chosen[tokens].flatten(), minlength=5) * 5 / (2 * int(tokens.sum()))
        return float((f * share[tokens].mean(0)).sum().detach())

    rows = [torch.zeros_like(mask).index_fill(0, torch.tensor([row]), True) & ~mask for row in range(3)]
    assert asked(routing, "weight", 1.0, mask) == pytest.approx(of(~mask))
    assert asked(routing, "sequence_weight", 1.0, mask) == pytest.approx(sum(map(of, rows)) / 3)


def test_a_hash_is_as_good_as_drawn_and_always_the_same() -> None:
    ids = torch.arange(4000)
    chosen = hashed_experts(ids, 8, 2, seed=1)
    assert torch.equal(chosen, hashed_experts(ids, 8, 2, seed=1))
    assert (chosen[:, 0] != chosen[:, 1]).all()
    assert (chosen != hashed_experts(ids, 8, 2, seed=2)).any(-1).double().mean() > 0.9
    counts = torch.bincount(chosen.flatten(), minlength=8).double()
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 24.3  # chi-squared with 7 degrees of freedom, p = 0.001
    pairs = torch.bincount((chosen.sort(-1).values * torch.tensor([8, 1])).sum(-1), minlength=64).double()
    assert (pairs[pairs > 0] / (4000 / 28)).sub(1).abs().max() < 0.4  # every pair is as likely
