"""The balance without a loss, and ways to get it wrong: each wrong copy fails the check that the router passes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.feed_forward import routing
from ablab.model.feed_forward.routing import BalanceLoss, Router, Routing, loads

TOP_K, EXPERTS, WIDTH, SPEED = 2, 5, 8, 0.1


def made(kind: type[Router], bias: tuple[float, ...] = (0.0,) * EXPERTS) -> Router:
    router = kind(WIDTH, EXPERTS, top_k=TOP_K, score="sigmoid", renormalise=True, scale=1.5, bias_speed=SPEED)
    nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        router.bias += torch.tensor(bias)
    return router


def tokens(seed: int) -> Tensor:
    """Tokens of one batch, which have a direction in common, so that loads are uneven and differ between batches."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 6, WIDTH, generator=generator) + torch.randn(WIDTH, generator=generator)


class Weighing(Router):
    """The bias weighs what it chooses."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, given: Tensor | None = None) -> Routing:
        found = super().forward(x, key_padding_mask, given)
        gates = (found.scores + self.bias).gather(-1, found.chosen)
        return found._replace(gates=gates / gates.sum(-1, keepdim=True) * self.scale)


class WithGradient(Router):
    """The bias changes no gate, and is trained with the weights all the same."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        del self.bias
        self.bias = nn.Parameter(torch.zeros(EXPERTS))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, given: Tensor | None = None) -> Routing:
        found = super().forward(x, key_padding_mask, given)
        return found._replace(gates=found.gates + (self.bias - self.bias.detach())[found.chosen])


class OfOneRank(Router):
    """The bias moves by what this process has routed."""

    @torch.no_grad()
    def after_step(self) -> None:
        assert self._load is not None
        self.bias += self.bias_speed * (self._load.mean() - self._load).sign()
        self._load = None


class OfTheLastBatch(Router):
    """The bias moves by what the last of the accumulated batches has routed."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, given: Tensor | None = None) -> Routing:
        self._load = None
        return super().forward(x, key_padding_mask, given)


def check_that_it_only_chooses(kind: type[Router]) -> None:
    """Gates, and the gradient of all that is trained, are those of the scores alone."""
    router, x = made(kind, (2.0, -2.0, 0.5, 0.0, -0.5)), tokens(1)
    found = router(x)
    assert torch.equal(found.chosen, (found.scores + router.bias).topk(TOP_K, -1).indices)
    assert [name for name, _ in router.named_parameters()] == ["weight"]
    weight = router.weight.detach().clone().requires_grad_()
    scores = torch.sigmoid(x @ weight.T).gather(-1, found.chosen)
    gates = 1.5 * scores / scores.sum(-1, keepdim=True)
    torch.testing.assert_close(found.gates, gates)
    found.gates.square().sum().backward()
    gates.square().sum().backward()
    torch.testing.assert_close(router.weight.grad, weight.grad)


class Ranks:
    """Two threads that meet where processes would: what they sum is the same in both."""

    def __init__(self) -> None:
        self._meeting, self._given = threading.Barrier(2, timeout=20), list[Tensor]()

    def sum(self, tensor: Tensor) -> Tensor:
        self._given.append(tensor.clone())
        self._meeting.wait()
        return torch.stack(self._given).sum(0)

    def run(self, steps: list[Callable[[], None]]) -> None:
        threads = [threading.Thread(target=step) for step in steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def check_that_loads_are_of_all(kind: type[Router], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with two batches each move their biases as one does that has all four at once."""
    batches = [tokens(seed) for seed in range(4)]
    alone = made(Router)
    everything = loads(alone(torch.cat(batches)).chosen, EXPERTS, None).sum(0)
    expected = alone.bias + SPEED * (everything.mean() - everything).sign()
    ranks = [made(kind), made(kind)]
    for router, own in zip(ranks, (batches[:2], batches[2:]), strict=True):
        for batch in own:
            router(batch)
    meeting = Ranks()
    monkeypatch.setattr(routing, "sum_over_data", meeting.sum)
    meeting.run([router.after_step for router in ranks])
    for router in ranks:
        torch.testing.assert_close(router.bias, expected)


def test_the_bias_only_chooses() -> None:
    check_that_it_only_chooses(Router)


@pytest.mark.parametrize("wrong", [Weighing, WithGradient])
def test_a_bias_that_weighs_or_is_trained_is_found(wrong: type[Router]) -> None:
    with pytest.raises(AssertionError):
        check_that_it_only_chooses(wrong)


def test_loads_are_of_all_processes_and_accumulated_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    check_that_loads_are_of_all(Router, monkeypatch)


@pytest.mark.parametrize("wrong", [OfOneRank, OfTheLastBatch])
def test_loads_of_a_part_are_found(wrong: type[Router], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        check_that_loads_are_of_all(wrong, monkeypatch)


@pytest.mark.parametrize("shares", [(3, 3), (5, 1)])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.5, 0.25)])
def test_losses_are_of_all_processes_however_sequences_are_shared_out(
    shares: tuple[int, int], weights: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over the processes, of which gradients are, is that of one process with all sequences."""
    everything = torch.cat([tokens(seed) for seed in range(3)])
    router, asked, meeting = made(Router), list[Tensor](), Ranks()

    def ask(own: Tensor) -> None:
        loss = BalanceLoss(weight=weights[0], sequence_weight=weights[1])
        loss(router(own), None)
        asked.append(loss.penalty())

    ask(everything)
    monkeypatch.setattr(routing, "sum_over_data", meeting.sum)
    meeting.run([partial(ask, own) for own in everything.split(shares)])
    alone, *ranks = asked
    torch.testing.assert_close(torch.stack(ranks).mean(), alone)
