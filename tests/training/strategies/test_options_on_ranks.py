"""Two processes learn what one does, whatever the options: by the weights and the buffers behind the last step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from mixtures import fit, mixtures
from ranks import together

from ablab.config import RunConfig
from ablab.model.feed_forward import routing
from ablab.training.build import BuiltRun

# In double precision, so that no optimizer makes much of the order in which gradients are summed.
SIZES = (
    *("trainer.precision=64-true", "trainer.max_steps=2", "trainer.accumulate_grad_batches=2"),
    *("model.n_layers=2", "task.batch_size=4"),
)

IN_16_BITS = ("muon", "normuon")  # orthogonalise so, and make more of a gradient's last bit


def fit_all(rank: int, configs: list[RunConfig]) -> list[dict[str, Any]]:
    """What this process knows behind the last step of each run, the last run once more with loads of its own alone."""
    known = [fit(BuiltRun.of(config)) for config in configs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "sum_over_data", lambda own: own)
        return [*known, fit(BuiltRun.of(configs[-1]))]


def assert_as_one(one: dict[str, Any], *ranks: dict[str, Any], within: float = 1e-9) -> None:
    for name, value in (one["weights"] | one["buffers"]).items():
        for own in ranks:
            found = (own["weights"] | own["buffers"])[name]
            # A constant in the scores of a query cancels in its softmax: its gradient is rounding, of either sign.
            atol = within if not name.endswith("key.bias") else 0.01
            torch.testing.assert_close(found, value, rtol=0, atol=atol, msg=name)


PENALISED = (
    *("feed_forward=moe", "feed_forward.balance_weight=0.1", "feed_forward.sequence_weight=0.1"),
    *("objective=multi_token", "objective.depth=2", "objective.z_loss=0.01"),
)


@pytest.mark.slow
def test_penalties_are_of_the_pass_where_weights_are_in_pieces(tiny_config: Callable[..., RunConfig]) -> None:
    """What a pass has found is added to its loss without a look at any weight; blocks let go of theirs meanwhile."""
    attentions = [("attention=dsa", "attention.warmup_steps=1"), ("attention=csa", "residual=mhc")]
    single = ("trainer.precision=32-true", "optimizer=sgd")  # shards have no double precision
    words = [(*SIZES, *single, "attention.keys=4", *PENALISED, *attention) for attention in attentions]
    runs = [tiny_config(*each, "strategy=fsdp") for each in words]
    ranks = zip(*together(fit_all, 2, runs, group=False), strict=True)
    for each, found in zip(words, ranks, strict=False):
        assert_as_one(fit(BuiltRun.of(tiny_config(*each))), *found, within=2e-6)


@pytest.mark.slow
def test_objectives_are_of_the_pass_where_layers_are_in_pieces_too(tiny_config: Callable[..., RunConfig]) -> None:
    words = (*SIZES, "trainer.precision=32-true", "optimizer=sgd", *PENALISED[3:])
    run = tiny_config(*words, "strategy=hybrid", "trainer.devices=4")
    found, _ = zip(*together(fit_all, 4, [run], group=False), strict=True)
    assert_as_one(fit(BuiltRun.of(tiny_config(*words))), *found, within=2e-6)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tiny_config: Callable[..., RunConfig]) -> None:
    """Accumulated batches included, and the buffers of both processes: a balance bias is the same in each."""
    single = tiny_config(*SIZES).options["strategy"]
    runs = list(mixtures(tiny_config(*SIZES, "strategy=ddp")))
    runs.append(tiny_config(*SIZES, "strategy=ddp", "feed_forward=moe", "optimizer=sgd"))
    *each, wrong = zip(*together(fit_all, 2, runs, group=False), strict=True)
    for config, ranks in zip(runs, each, strict=True):
        one = fit(BuiltRun.of(replace(config, options=config.options | {"strategy": single})))
        try:
            assert_as_one(one, *ranks, within=1e-3 if config.axes["optimizer"] in IN_16_BITS else 1e-9)
        except AssertionError as error:
            raise AssertionError(f"{config.axes}: {error}") from error
    with pytest.raises(AssertionError):
        assert_as_one(one, *wrong)
    first, second = (own["buffers"]["blocks.0.feed_forward.router.bias"] for own in wrong)
    assert not torch.equal(first, second)
