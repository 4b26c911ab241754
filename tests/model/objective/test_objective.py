"""The settings that every objective has, what it is refused with, and that the default one changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.model.mechanism import probe_outputs
from ablab.model.objective.base import IGNORED, mean_over_data
from ablab.model.protocols import has_penalties
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer
from ablab.training.cost import count_flops, count_parameters

Build = Callable[..., Transformer]
Load = Callable[..., Any]


def nats(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def test_by_default_nothing_is_asked(build: Build, tokens: Callable[..., Tensor]) -> None:
    model, ids = build(), tokens(2, 12)
    assert not has_penalties(model)
    assert not list(model.objective.parameters())
    assert torch.equal(model(ids, targets=ids), model(ids))
    assert float(model.penalty().detach()) == 0


@pytest.mark.parametrize("option", ["next_token", "multi_token"])
def test_log_z_is_what_the_loop_says(
    option: str, build: Build, load_option: Load, tokens: Callable[..., Tensor]
) -> None:
    made = load_option("objective", option, z_loss=0.02, **({"weight": 0.0} if option == "multi_token" else {}))
    model, ids, targets = build(objective=made).double(), tokens(3, 10), tokens(3, 10, seed=1)
    targets[0, 4:], targets[2] = IGNORED, IGNORED
    logits = model(ids, targets=targets)
    squares = [
        logits[row, place].exp().sum().log() ** 2
        for row in range(3)
        for place in range(10)
        if targets[row, place] != IGNORED
    ]
    wanted = 0.02 * torch.stack(squares).mean()
    penalty = model.penalty()
    torch.testing.assert_close(penalty, wanted)
    own, theirs = (torch.autograd.grad(each, model.head.weight, retain_graph=True) for each in (penalty, wanted))
    torch.testing.assert_close(own, theirs)


def test_nothing_is_asked_of_a_batch_without_targets(
    build: Build, load_option: Load, tokens: Callable[..., Tensor]
) -> None:
    model = build(objective=load_option("objective", "multi_token", z_loss=0.1))
    model(tokens(2, 8), targets=torch.full((2, 8), IGNORED))
    penalty = model.penalty()
    penalty.backward()
    assert float(penalty.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_logits_are_bounded(build: Build, load_option: Load, tokens: Callable[..., Tensor]) -> None:
    model, ids = build(objective=load_option("objective", "next_token", softcap=0.1)), tokens(2, 9)
    with torch.no_grad():
        model.head.weight.mul_(100)
        plain = model.head(model.hidden(model.through(range(2), [model.enter(ids)[0]], model.context(ids, None)), None))
        torch.testing.assert_close(model(ids), 0.1 * torch.tanh(plain / 0.1))
    assert model(ids).abs().max() <= 0.1
    for ahead, _ in _ahead(build(objective=load_option("objective", "multi_token", softcap=0.1)), ids):
        assert ahead.abs().max() <= 0.1


def _ahead(model: Transformer, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    found: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        model.head.weight.mul_(100)
    model.objective.register_forward_hook(lambda module, args, output: found.extend(module.ahead(args[0])))
    model(ids, targets=ids)
    return found


def test_shares_of_processes_add_up_to_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over processes of what each one has, whichever of them has how many terms."""
    sums, counts = torch.tensor([[6.0, 1.0, 0.0], [2.0, 0.0, 0.0]]), torch.tensor([[3, 1, 0], [1, 0, 0]])

    def summed(own: Tensor) -> Tensor:
        return torch.cat([counts.double().sum(0), own.new_tensor([2.0])])

    monkeypatch.setattr("ablab.model.objective.base.sum_over_data", summed)
    shares = torch.stack([mean_over_data(*each) for each in zip(sums, counts, strict=True)])
    assert shares.mean(0).tolist() == [2.0, 1.0, 0.0]


def test_what_is_asked_tells_objectives_apart(build: Build, load_option: Load) -> None:
    def answer(option: str, **changes: Any) -> list[float]:
        return probe_outputs(build(objective=load_option("objective", option, **changes)))["objective"]

    plain, ahead = answer("next_token"), answer("multi_token")
    assert plain == answer("multi_token", weight=0.0, depth=3)
    assert ahead == answer("multi_token", weight_end=0.3)
    others = [
        *(answer("next_token", z_loss=1e-4), answer("next_token", softcap=30.0), answer("multi_token", depth=2)),
        *(answer("multi_token", weight=0.2), answer("multi_token", weight_end=0.1)),
        answer("multi_token", weight_end=0.1, end_share=0.5),
    ]
    assert len({tuple(each) for each in (plain, ahead, *others)}) == 8


def test_costs_are_counted(build: Build, load_option: Load, tokens: Callable[..., Tensor]) -> None:
    """A module is a block, a join of twice the width, and a pass through the head; it has no head of its own."""
    ids = tokens(1, 16)
    models = [build(), *(build(objective=load_option("objective", "multi_token", depth=k)) for k in (1, 2))]
    parameters = [count_parameters(model) for model in models]
    block, norms = count_parameters(models[0].blocks[0]), 3 * 2 * 16
    assert parameters[1] - parameters[0] == parameters[2] - parameters[1] == block + 2 * 16 * 16 + norms
    none, one, two = (count_flops(model, nats, (ids, ids))[0] for model in models)
    tokens_of = [15, 14]  # of the window, in modules 1 and 2
    least = [6 * n * (12 * 16 * 16 + 2 * 16 * 16 + 16 * 11) for n in tokens_of]
    assert one - none >= least[0]
    assert two - one >= least[1]
    assert two - one < one - none < 1.2 * least[0]


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"causal": False}, "task"),
        ({"pooled": True}, "task"),
        ({"n_outputs": 3}, "task"),
        ({"residual": "value"}, "residual"),
    ],
)
def test_what_cannot_work_together_is_refused(changes: dict[str, Any], other: str, build: Build) -> None:
    with pytest.raises(ClashError) as raised:
        build(objective="multi_token", **changes)
    assert (raised.value.axis, raised.value.other) == ("objective", other)


def test_several_modalities_are_refused(build_modal: Build) -> None:
    build_modal(objective="next_token")
    with pytest.raises(ClashError, match="the objective does not work with the task"):
        build_modal(objective="multi_token")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("z_loss", -1.0, r"z_loss must be at least 0, got -1\.0"), ("softcap", 0.0, "softcap must be above 0, or null")],
)
def test_values_out_of_range_are_refused(key: str, value: float, words: str, build: Build, load_option: Load) -> None:
    with pytest.raises(ValueError, match=rf"objective\.{words}"):
        build(objective=load_option("objective", "next_token", **{key: value}))
