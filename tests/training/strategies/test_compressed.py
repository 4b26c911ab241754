"""What compressing hooks send, and what they keep, against plain arithmetic on each process's own gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import together
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from ablab.training.strategies.compressed import (
    CastDataParallel,
    PowerSgdDataParallel,
    TopKDataParallel,
    shared_out,
)
from ablab.training.strategies.data_parallel import REHEARSALS, DataParallel

STEPS = 5
Seen = dict[str, Tensor]


def _strategies() -> dict[str, DataParallel]:
    return {
        "float16": CastDataParallel(processes=2, dtype="float16"),
        "bfloat16": CastDataParallel(processes=2, dtype="bfloat16"),
        "powersgd": PowerSgdDataParallel(processes=2, rank=1, warmup_steps=1),
        "forgetful": PowerSgdDataParallel(processes=2, rank=1, error_feedback=False),
        "topk": TopKDataParallel(processes=2, share=0.1, warmup_steps=1),
        "topk all": TopKDataParallel(processes=2, share=1.0),
    }


def _watched(rank: int) -> dict[str, list[Seen]]:
    """Of each strategy's hook, bucket by bucket: what it got, held back before and after, and gave."""
    seen = {}
    for name, strategy in _strategies().items():
        torch.manual_seed(0)
        model = DistributedDataParallel(
            nn.Sequential(nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 16)), bucket_cap_mb=0.001, static_graph=True
        )
        for _ in range(REHEARSALS):
            model(torch.zeros(1, 24)).sum().backward()
        hook = strategy.hook()
        assert hook is not None
        noted: list[Seen] = []
        model.register_comm_hook(*_noting(hook, noted))
        for step in range(STEPS):
            model.zero_grad()
            generator = torch.Generator().manual_seed(10 * step + rank)
            model(torch.randn(7, 24, generator=generator)).square().mean().backward()
        assert len(noted) > STEPS, "one bucket alone would not tell whose memory is whose"
        seen[name] = noted
    return seen


def _noting(hook: tuple[Any, Any], noted: list[Seen]) -> tuple[Any, Any]:
    state, average = hook
    memory = getattr(state, "held_back", getattr(state, "error_dict", {}))

    def watch(state: Any, bucket: Any) -> Future[Tensor]:
        index, nothing = bucket.index(), torch.zeros_like(bucket.buffer())
        note = {"own": bucket.buffer().clone(), "held": memory.get(index, nothing).clone()}
        given: Tensor = average(state, bucket).wait()
        given = given[0] if isinstance(given, list) else given
        noted.append(note | {"given": given.clone(), "kept": memory.get(index, nothing).clone()})
        done: Future[Tensor] = Future()
        done.set_result(given)
        return done

    watch.__annotations__["bucket"] = GradBucket
    watch.__annotations__["return"] = Future[Tensor]
    return state, watch


@pytest.fixture(scope="module")
def watched() -> list[dict[str, list[Seen]]]:
    return together(_watched, 2)


def _mean(one: Tensor, other: Tensor) -> Tensor:
    return (one + other) / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["powersgd", "topk"])
def test_what_was_sent_and_what_is_held_back_are_the_gradient(watched: list[dict[str, list[Seen]]], name: str) -> None:
    """Over the processes together, and step after step, so that nothing is lost and nothing is sent twice."""
    kept = 0.0
    for one, other in zip(watched[0][name], watched[1][name], strict=True):
        torch.testing.assert_close(one["given"], other["given"], rtol=0, atol=0)
        wanted = _mean(one["own"] + one["held"], other["own"] + other["held"])
        torch.testing.assert_close(one["given"] + _mean(one["kept"], other["kept"]), wanted, rtol=1e-5, atol=1e-7)
        kept += float(one["kept"].norm())
    assert kept > 0


@pytest.mark.slow
def test_warm_up_sends_all(watched: list[dict[str, list[Seen]]]) -> None:
    for name in ("powersgd", "topk"):
        buckets = len(watched[0][name]) // STEPS
        for one, other in zip(watched[0][name][:buckets], watched[1][name][:buckets], strict=True):
            torch.testing.assert_close(one["given"], _mean(one["own"], other["own"]))


@pytest.mark.slow
def test_topk_sends_the_largest(watched: list[dict[str, list[Seen]]]) -> None:
    notes = [watched[rank]["topk"] for rank in (0, 1)]
    buckets = len(notes[0]) // STEPS
    for one, other in zip(notes[0][buckets:], notes[1][buckets:], strict=True):
        sent = []
        for note in (one, other):
            wanted = (note["own"] + note["held"]).tolist()
            largest = sorted(range(len(wanted)), key=lambda place: -abs(wanted[place]))[: round(0.1 * len(wanted))]
            sent.append(torch.tensor([value if place in largest else 0.0 for place, value in enumerate(wanted)]))
        torch.testing.assert_close(one["given"], _mean(*sent))
    for one, other in zip(watched[0]["topk all"], watched[1]["topk all"], strict=True):
        torch.testing.assert_close(one["given"], _mean(one["own"], other["own"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_casts_round_what_they_send(watched: list[dict[str, list[Seen]]], name: str) -> None:
    dtype = getattr(torch, name)
    for one, other in zip(watched[0][name], watched[1][name], strict=True):
        halves = [note["own"].to(dtype) / 2 for note in (one, other)]
        torch.testing.assert_close(one["given"], (halves[0] + halves[1]).float(), rtol=0, atol=0)


def _rank_one(rank: int) -> tuple[Tensor, Tensor]:
    """The gradient of a matrix that is an outer product, and what PowerSGD makes of the mean over the processes."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(30, 20, bias=False), static_graph=True)
    x = torch.randn(1, 30)
    model(x).sum().backward()
    hook = PowerSgdDataParallel(processes=2, rank=1).hook()
    model.register_comm_hook(hook[0], lambda state, bucket: hook[1](state, bucket))
    model.zero_grad()
    toward = torch.randn(1, 20, generator=torch.Generator().manual_seed(rank))
    (model(x) * toward).sum().backward()
    gradient = model.module.weight.grad
    assert gradient is not None
    return toward.T @ x, gradient


@pytest.mark.slow
def test_powersgd_of_rank_one_sends_an_outer_product_as_it_is() -> None:
    (own, given), (others, _) = together(_rank_one, 2)
    torch.testing.assert_close(given, (own + others) / 2, rtol=1e-4, atol=1e-6)


def test_a_run_that_ends_within_its_warm_up_is_told_of() -> None:
    for make in (PowerSgdDataParallel, TopKDataParallel):
        strategy = make(processes=2, warmup_steps=10)
        assert strategy.notes(11) == []
        assert strategy.notes(10) == ["nothing was compressed: the warm-up takes 10 steps of 10"]


def test_other_processes_share_what_was_held_back() -> None:
    states = [{"held_back": {0: torch.tensor([1.0, 2.0])}}, {"held_back": {0: torch.tensor([3.0, 6.0])}}]
    assert shared_out(states, rank=1, processes=2) is states[1]["held_back"]
    for rank in range(3):
        torch.testing.assert_close(shared_out(states, rank, processes=3)[0], torch.tensor([2.0, 4.0]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CastDataParallel(processes=2, dtype="float8"), "dtype=float8: must be float16 or bfloat16"),  # type: ignore[arg-type]
        (lambda: PowerSgdDataParallel(processes=2, rank=0), "rank=0 must be at least 1"),
        (lambda: PowerSgdDataParallel(processes=2, warmup_steps=-1), "warmup_steps=-1 must be at least 0"),
        (lambda: TopKDataParallel(processes=2, share=0), "share=0 must be above 0 and at most 1"),
        (lambda: TopKDataParallel(processes=1), "needs at least 2 processes, got trainer.devices=1"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
