"""What two processes send to each other, against closed forms and the network's own counters."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from collectives import LARGE, STEPS, WIDTH
from commands import Command

from ablab.training import dispatcher
from ablab.training.traffic.counter import ALL_REDUCE, OPERATORS, Traffic, size

PARAMETERS = 2 * (WIDTH * WIDTH + WIDTH)
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Counted:
    by_name: dict[str, Any]
    alone: bool  # nobody else used the network

    def counts(self, name: str) -> dict[tuple[str, int], tuple[int, int, float]]:
        return {(kind, group): tuple(values) for kind, group, *values in self.by_name[name]["counts"]}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Counted:
    folder = tmp_path_factory.mktemp("counted")
    code = "import sys, collectives; collectives.main(*sys.argv[1:])"
    process = Command([str(folder / "found.json")], folder, dict(os.environ), code=code)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return Counted(**json.loads((folder / "found.json").read_text(encoding="utf-8")))


pytestmark = pytest.mark.slow


def test_data_parallel_sends_each_gradient_once(counted: Counted) -> None:
    """Both processes send it whole: 2 (n - 1)/n is 1. What the reducer agrees on in its first passes is left out."""
    payload = STEPS * PARAMETERS * FLOAT
    assert counted.counts("data_parallel") == {("all-reduce", 2): (STEPS, payload, payload)}


def test_low_rank_gradients_send_two_factors_and_the_vectors(counted: Counted) -> None:
    """Vogels et al. 2019, section 3: of an n x m matrix r (n + m) numbers, in three calls: vectors, P and Q."""
    payload = STEPS * FLOAT * (2 * WIDTH + 2 * 1 * (WIDTH + WIDTH))
    assert counted.counts("low_rank") == {("all-reduce", 2): (3 * STEPS, payload, payload)}


def test_tensor_parallel_sums_an_activation_forward_and_a_gradient_backward(counted: Counted) -> None:
    payload = STEPS * 2 * (2 * WIDTH) * FLOAT
    assert counted.counts("tensor_parallel") == {("all-reduce", 2): (2 * STEPS, payload, payload)}


def test_sharded_parameters_are_gathered_twice_and_gradients_scattered_once(counted: Counted) -> None:
    """Rajbhandari et al. 2020, section 7: 3 times the parameters, 1.5 times what data parallel training sends."""
    shard = STEPS * PARAMETERS * FLOAT // 2
    assert counted.counts("sharded") == {
        ("all-gather", 2): (4 * STEPS, 2 * shard, 2 * shard),
        ("reduce-scatter", 2): (2 * STEPS, 2 * shard, shard),
    }
    sent = sum(sent for *_, sent in counted.counts("sharded").values())
    assert sent == 1.5 * sum(sent for *_, sent in counted.counts("data_parallel").values())


def test_every_kind_of_call_is_seen_once(counted: Counted) -> None:
    assert counted.counts("single_calls") == {
        ("all-reduce", 2): (2, 10 * 4 + 20 * 8, 10 * 4 + 20 * 8),
        ("all-reduce", 1): (1, 120, 0),
        ("broadcast", 2): (1, 160, 80),
        ("reduce", 2): (1, 200, 100),
        ("all-gather", 2): (1, 240, 240),
        ("reduce-scatter", 2): (1, 560, 280),
        ("all-to-all", 2): (1, 320, 160),
        ("gather", 2): (1, 360, 180),
        ("scatter", 2): (1, 400, 200),
        ("send", 2): (1, 480, 480),
    }


def test_nothing_is_counted_of_nothing(counted: Counted) -> None:
    assert counted.counts("quiet") == {}
    assert counted.by_name["quiet"]["seconds"] == 0


def test_an_end_that_is_not_known_makes_no_time(counted: Counted) -> None:
    """gloo does not tell when what was sent has arrived."""
    assert {name for name, found in counted.by_name.items() if not found["timed"]} == {"single_calls"}
    for name in ("data_parallel", "low_rank", "tensor_parallel", "sharded"):
        found = counted.by_name[name]
        assert 0 < found["computed"] < found["seconds"], name


def test_the_network_carried_what_was_counted(counted: Counted) -> None:
    """Both processes' bytes, and less than 5% of headers: small packets, on a busy machine, have more of these."""
    if not counted.alone:
        pytest.skip("no network namespace can be made here, and others use the loopback interface")
    for name in ("large_all_reduce", "large_all_gather"):
        [(calls, payload, sent)] = counted.counts(name).values()
        assert (calls, payload) == (STEPS, STEPS * LARGE * FLOAT)
        assert 2 * sent <= counted.by_name[name]["wire"] <= 1.05 * 2 * sent, name


def test_another_version_of_torch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without such operators: nothing is counted, and what was begun is undone."""
    monkeypatch.setitem(OPERATORS, "an_operator_of_the_future_", (ALL_REDUCE, 0))
    traffic = Traffic(None)
    assert not traffic.install()
    assert traffic.counts == {}
    monkeypatch.delitem(OPERATORS, "an_operator_of_the_future_")
    again = Traffic(None)
    assert again.install()  # nobody stands there any more
    again.remove()


def test_a_torch_without_the_key_or_the_arguments_names_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dispatcher.place_of("allreduce_", "async_op") is not None
    assert dispatcher.place_of("allreduce_", "an_argument_of_the_future") is None
    assert dispatcher.place_of("an_operator_of_the_future_", "async_op") is None
    monkeypatch.delattr(torch._C, "DispatchKey")
    assert not Traffic(None).install()


def test_a_sparse_tensor_has_the_bytes_of_its_indices_and_values() -> None:
    """Three entries in two dimensions, one of them twice."""
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0, 0, 4], [1, 1, 2]]), torch.ones(3, 6), (5, 3, 6), check_invariants=True
    )
    assert not sparse.is_coalesced()
    assert size([sparse, [torch.ones(7, dtype=torch.bfloat16)]]) == 3 * 2 * 8 + 3 * 6 * FLOAT + 7 * 2
