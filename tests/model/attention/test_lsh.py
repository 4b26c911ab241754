from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import (
    full_mask,
    lsh_mask,
    masked_attention,
    own_if_alone,
    without_own,
    without_padding,
)
from torch import Tensor

from ablab.model.attention.buckets import Buckets, stable_order
from ablab.model.attention.full import FullAttention
from ablab.model.attention.hashed import hashed_forward
from ablab.model.attention.kernel import Scale
from ablab.model.attention.lsh import LSHAttention

Agree = Callable[..., None]
Problems = Any  # see conftest
MakeProblem = Callable[..., Any]


def mask(core: LSHAttention, problem: Any, share_qk: bool = False) -> Tensor:
    """Who sees whom: (B, H, T, T)."""
    q, k, _ = problem.inputs(share_qk=share_qk)
    padding = problem.padding()
    seen = lsh_mask(core.hash(q), core.hash(k), core.hash.bucket_size, problem.causal, padding)
    both: Tensor = own_if_alone(seen, padding)
    return both


def check(agree: Agree, problem: Any, *, share_qk: bool = False, **options: Any) -> None:
    core = LSHAttention(problem.spec, share_qk=share_qk, **options)
    seen = mask(core, problem, share_qk)
    agree(core, problem, lambda q, k, v: masked_attention(q, k, v, seen), share_qk=share_qk)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    data=st.data(),
    rounds=st.integers(1, 4),
    bucket_size=st.sampled_from([1, 2, 3, 7, 16, 31, 64, 65, 400]),
    hashing=st.sampled_from([(None, False), (1, False), (2, False), (8, False), (None, True), (4, True), (24, True)]),
    share_qk=st.booleans(),
)
def test_outputs_and_gradients_are_those_of_the_definition(
    agree: Agree,
    problems: Problems,
    data: st.DataObject,
    rounds: int,
    bucket_size: int,
    hashing: tuple[int | None, bool],
    share_qk: bool,
) -> None:
    problem = data.draw(problems)
    check(
        agree,
        problem,
        rounds=rounds,
        bucket_size=bucket_size,
        buckets=hashing[0],
        factored=hashing[1],
        share_qk=share_qk and len(set(problem.heads)) == 1,
    )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("share_qk", [True, False])
@pytest.mark.parametrize(("length", "bucket_size", "rounds"), [(63, 64, 1), (129, 64, 2), (257, 5, 4), (331, 64, 3)])
@pytest.mark.usefixtures("either_kernel")
def test_on_both_sides_of_the_block(
    agree: Agree, make_problem: MakeProblem, length: int, bucket_size: int, rounds: int, share_qk: bool, causal: bool
) -> None:
    problem = make_problem(length=length, causal=causal, padded="left", layout="transposed")
    check(agree, problem, rounds=rounds, bucket_size=bucket_size, share_qk=share_qk)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(64, 64), (64, 32), (24, 40)])
@pytest.mark.usefixtures("either_kernel")
def test_wide_heads(agree: Agree, make_problem: MakeProblem, sizes: tuple[int, int], dtype: torch.dtype) -> None:
    check(agree, make_problem(length=150, sizes=sizes, heads=(4, 2), dtype=dtype), rounds=2, bucket_size=16)


def alike(problem: Any, kind: str) -> list[Tensor]:
    """q, k and v of one direction, so that buckets are as uneven as can be."""
    q, _, v = problem.inputs()
    one = q.detach()[:, :, :1]
    directions = {"same": (one, one), "opposite": (one, -one), "zero": (one * 0, one * 0), "keys": (q.detach(), one)}
    return [*(x.expand_as(q).clone().requires_grad_() for x in directions[kind]), v]


@pytest.mark.parametrize("kind", ["same", "opposite", "zero", "keys"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("options", [{"buckets": 8}, {"buckets": 16, "factored": True}])
def test_buckets_that_hold_everything_or_nothing(
    make_problem: MakeProblem, kind: str, causal: bool, options: dict[str, Any]
) -> None:
    problem = make_problem(length=150, causal=causal)
    q, k, v = alike(problem, kind)
    core = LSHAttention(problem.spec, rounds=2, bucket_size=9, **options)
    seen = own_if_alone(lsh_mask(core.hash(q), core.hash(k), 9, causal), None)
    if kind == "opposite":
        assert torch.equal(seen, torch.eye(150, dtype=torch.bool).expand_as(seen))
    found, expected = core(q, k, v), masked_attention(q, k, v, seen)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    gradients = (torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("share_qk", [True, False])
def test_visited_is_the_definition(make_problem: MakeProblem, causal: bool, share_qk: bool) -> None:
    problem = make_problem(length=90, causal=causal)
    q, k, _ = problem.inputs(share_qk=share_qk)
    core = LSHAttention(problem.spec, rounds=2, bucket_size=8, share_qk=share_qk)
    positions = torch.tensor([89, 0, 44])
    assert torch.equal(core.visited(q, k, positions), mask(core, problem, share_qk)[:, :, positions])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rounds", [1, 4])
@pytest.mark.parametrize("padded", [None, "holes"])
def test_one_bucket_that_is_seen_whole_is_full_attention_but_for_the_own_key(
    agree: Agree, make_problem: MakeProblem, causal: bool, rounds: int, padded: str | None
) -> None:
    """With four rounds every key comes four times; counted once, it changes nothing."""
    problem = make_problem(length=100, causal=causal, padded=padded)
    padding = problem.padding()
    seen = own_if_alone(without_padding(without_own(full_mask(100, causal))[None, None], padding), padding)
    core = LSHAttention(problem.spec, rounds=rounds, bucket_size=200, buckets=1)
    agree(core, problem, lambda q, k, v: masked_attention(q, k, v, seen))


def pairs_that_share_a_bucket(core: LSHAttention, problem: Any) -> Tensor:
    """In any round, however many there are: (B, H, T, T), without own keys."""
    pairs: Tensor = lsh_mask(*(core.hash(x) for x in problem.inputs()[:2]), problem.length * 2, problem.causal)
    return pairs


@pytest.mark.parametrize("causal", [True, False])
def test_with_room_enough_all_pairs_of_any_round_are_seen(
    agree: Agree, make_problem: MakeProblem, causal: bool
) -> None:
    problem = make_problem(length=97, causal=causal)
    core = LSHAttention(problem.spec, rounds=16, bucket_size=200, buckets=16)
    pairs = own_if_alone(pairs_that_share_a_bucket(core, problem), None)
    assert 0.3 < pairs.float().mean() / full_mask(97, causal).float().mean() < 0.9
    agree(core, problem, lambda q, k, v: masked_attention(q, k, v, pairs))


def distance_to_all_pairs(problem: Any, core: LSHAttention) -> float:
    q, k, v = problem.inputs()
    ideal = masked_attention(q, k, v, own_if_alone(pairs_that_share_a_bucket(core, problem), None))
    return float((core(q, k, v) - ideal).norm().item() / ideal.norm().item())


@pytest.mark.parametrize("causal", [True, False])
def test_more_room_comes_nearer_to_all_pairs(make_problem: MakeProblem, causal: bool) -> None:
    problem = make_problem(length=200, causal=causal)
    distances = [
        distance_to_all_pairs(problem, LSHAttention(problem.spec, rounds=2, bucket_size=size, buckets=4))
        for size in (2, 8, 32, 128, 400)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.5
    assert distances[-1] < 1e-12


@pytest.mark.parametrize("causal", [True, False])
def test_more_rounds_come_nearer_to_all_pairs(make_problem: MakeProblem, causal: bool) -> None:
    """What one round cuts off another one brings, except for distant keys: nearer ones fill the room of any round."""
    problem = make_problem(length=128, causal=causal)
    distances = [
        distance_to_all_pairs(problem, LSHAttention(problem.spec, rounds=rounds, bucket_size=16, buckets=4))
        for rounds in (1, 4, 16, 64)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.6 * distances[0]


def test_keys_met_in_different_numbers_of_rounds_weigh_the_same(make_problem: MakeProblem) -> None:
    """Equal scores: the output is the mean of the values seen, however often each was seen."""
    problem = make_problem(length=80, sizes=(8, 8))
    q, k, v = problem.inputs()
    core = LSHAttention(problem.spec, rounds=6, bucket_size=16)
    times = torch.stack([lsh_mask(core.hash(q)[:, :, [r]], core.hash(k)[:, :, [r]], 16, True) for r in range(6)]).sum(0)
    assert {0, 1, 2, 3} <= set(times.unique().tolist())
    even = torch.randn(v.shape, generator=torch.Generator().manual_seed(1), dtype=v.dtype)
    flat_k = torch.nn.functional.normalize(k, dim=-1) * 1e-12  # in the same buckets, and all scores nearly 0
    seen = own_if_alone(times > 0, None).double()
    expected = seen / seen.sum(-1, keepdim=True) @ even
    torch.testing.assert_close(core(q, flat_k, even), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factored", [False, True])
def test_heads_of_one_group_hash_alike(make_problem: MakeProblem, factored: bool) -> None:
    problem = make_problem(heads=(4, 2))
    core = LSHAttention(problem.spec, rounds=3, bucket_size=4, factored=factored)
    k = problem.inputs()[1]
    assert torch.equal(core.hash(k.repeat_interleave(2, 1)), core.hash(k).repeat_interleave(2, 1))


@pytest.mark.parametrize("factored", [False, True])
def test_a_vector_has_one_bucket_wherever_it_stands(make_problem: MakeProblem, factored: bool) -> None:
    """And whatever its length is, and however it lies in memory."""
    core = LSHAttention(make_problem().spec, rounds=3, bucket_size=4, factored=factored)
    q = make_problem(batch=3).inputs()[0].detach()
    buckets = core.hash(q)
    assert buckets.dtype == torch.int64
    assert buckets.shape == (3, 2, 3, 40)
    assert torch.equal(core.hash(q.flip(0, 1, 2)), buckets.flip(0, 1, 3))
    assert torch.equal(core.hash(q[1:2]), buckets[1:2])
    assert torch.equal(core.hash(q * 8), buckets)
    assert torch.equal(core.hash(q.transpose(1, 2).contiguous().transpose(1, 2)), buckets)


def test_near_neighbours_share_a_bucket(make_problem: MakeProblem) -> None:
    """For two buckets P(same) = 1 - angle / pi (Charikar 2002, section 3), over many random rotations."""
    core = LSHAttention(make_problem(heads=(1, 1)).spec, rounds=4000, bucket_size=32, buckets=2)
    angle = torch.tensor([0.0, math.pi / 6, math.pi / 3, math.pi / 2, math.pi])
    x = torch.zeros(1, 1, len(angle), 8)
    x[0, 0, :, 0], x[0, 0, :, 1] = angle.cos(), angle.sin()
    buckets = core.hash(x)[0, 0]
    same = (buckets == buckets[:, :1]).double().mean(0)
    torch.testing.assert_close(same, 1 - angle.double() / math.pi, rtol=0, atol=0.04)  # five standard errors


@pytest.mark.parametrize(("length", "buckets"), [(1, 1), (8, 1), (9, 2), (16, 2), (33, 4), (64, 8)])
def test_as_many_buckets_as_the_sequence_fills(make_problem: MakeProblem, length: int, buckets: int) -> None:
    problem = make_problem(length=length)
    core = LSHAttention(problem.spec, rounds=64, bucket_size=8)
    assert core.hash(problem.inputs()[0]).unique().tolist() == list(range(buckets))


@pytest.mark.parametrize("buckets", [4, 24, 64])
def test_factors_make_up_the_buckets(make_problem: MakeProblem, buckets: int) -> None:
    problem = make_problem(length=300)
    core = LSHAttention(problem.spec, rounds=64, bucket_size=8, buckets=buckets, factored=True)
    found = core.hash(problem.inputs()[0])
    assert found.unique().tolist() == list(range(buckets))
    assert torch.bincount(found.flatten()).double().std() < 0.5 * found.numel() / buckets


@pytest.mark.parametrize("factored", [False, True])
def test_rotations_are_a_function_of_seed_layer_and_step(make_problem: MakeProblem, factored: bool) -> None:
    x = make_problem(length=64).inputs()[0]

    def buckets(step: int | None, **changes: Any) -> tuple[int, ...]:
        spec = vars(make_problem().spec) | {"n_layers": 2} | changes
        core = LSHAttention(type(make_problem().spec)(**spec), rounds=2, bucket_size=4, factored=factored)
        if step is not None:
            core.resample(7)  # the steps before do not matter
            core.resample(step)
        return tuple(core.hash(x).flatten().tolist())

    assert buckets(3) == buckets(3)
    assert len({buckets(3), buckets(4), buckets(3, seed=1), buckets(3, layer_index=1)}) == 4
    assert buckets(None) == buckets(0)


def test_rotations_leave_the_global_generator_alone(make_problem: MakeProblem) -> None:
    before = torch.get_rng_state()
    problem = make_problem()
    core = LSHAttention(problem.spec, rounds=2, bucket_size=4)
    core.resample(3)
    core(*problem.inputs())
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_uses_one_rotation_whatever_the_step(make_problem: MakeProblem) -> None:
    problem = make_problem(length=50)
    core, inputs = LSHAttention(problem.spec, rounds=2, bucket_size=4), problem.inputs()
    training, evaluation = core(*inputs), core.eval()(*inputs)
    assert not torch.allclose(training, evaluation)
    core.resample(9)
    assert torch.equal(core(*inputs), evaluation)
    assert not torch.allclose(core.train()(*inputs), training)
    assert not core.state_dict()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("share_qk", [True, False])
def test_short_sequences_are_attended_to_in_full_where_that_is_asked_for(
    make_problem: MakeProblem, causal: bool, share_qk: bool
) -> None:
    problem = make_problem(length=30, causal=causal, padded="holes")
    inputs, padding = problem.inputs(share_qk=share_qk), problem.padding()
    full = FullAttention(problem.spec, share_qk=share_qk)(*inputs, padding)
    for dense_below, same in ((31, True), (30, False), (0, False)):
        options: dict[str, Any] = {"share_qk": share_qk, "dense_below": dense_below}
        core = LSHAttention(problem.spec, rounds=1, bucket_size=4, **options)
        assert torch.equal(core(*inputs, padding), full) == same


def test_memory_grows_with_the_length_and_not_with_its_square(make_problem: MakeProblem) -> None:
    def saved(length: int) -> int:
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        problem = make_problem(length=length)
        core = LSHAttention(problem.spec, rounds=2, bucket_size=16, buckets=16)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            core(*problem.inputs())
        return total

    once = saved(256)
    assert 1.9 * once < saved(512) < 2.1 * once
    assert 7.6 * once < saved(2048) < 8.4 * once


@pytest.mark.parametrize(("padded", "share_qk"), [(None, False), ("left", False), (None, True), ("holes", True)])
def test_its_operators_are_what_pytorch_expects(
    check_operators: Callable[..., set[str]], make_problem: MakeProblem, padded: str | None, share_qk: bool
) -> None:
    problem = make_problem(length=90, padded=padded, layout="transposed")
    core = LSHAttention(problem.spec, rounds=2, bucket_size=8, share_qk=share_qk)
    assert len(check_operators(core, problem, share_qk=share_qk)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0, "bucket_size": 4}, "rounds must be at least 1, got 0"),
        ({"rounds": 1, "bucket_size": 0}, "bucket_size must be at least 1, got 0"),
        ({"rounds": 1, "bucket_size": 4, "buckets": 3}, "buckets must be 1, an even number or null, got 3"),
        ({"rounds": 1, "bucket_size": 4, "buckets": 0}, "buckets must be 1, an even number or null, got 0"),
        ({"rounds": 1, "bucket_size": 4, "buckets": 6, "factored": True}, "buckets.*6"),
        ({"rounds": 1, "bucket_size": 4, "dense_below": -1}, "dense_below must be at least 0, got -1"),
    ],
)
def test_options_out_of_range(make_problem: MakeProblem, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LSHAttention(make_problem().spec, **options)


@pytest.mark.parametrize("limit", [1, 2**16, 2**16 + 1, 2**40])
def test_the_order_is_stable_however_many_buckets_there_are(limit: int) -> None:
    numbers = torch.randint(limit, (3000,), generator=torch.Generator().manual_seed(0)) // 7 * 7
    assert torch.equal(stable_order(numbers, limit), numbers.argsort(stable=True))


def test_long_sequences_keep_their_precision() -> None:
    """In single precision, where distances and slots go into the hundred thousands and are compared by squares."""
    B, H, T, D = 1, 1, 2**17 + 5, 4
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, T, H, D, generator=generator) for _ in range(3))
    count = T // 16
    queries, keys = (torch.randint(count, (3, B, H, T), generator=generator) for _ in range(2))
    buckets = Buckets(queries=queries, keys=keys, count=count, back=16, ahead=16)
    single = hashed_forward(q, k, v, buckets, Scale(0.5))
    double = hashed_forward(q.double(), k.double(), v.double(), buckets, Scale(0.5))
    torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-5, check_dtype=False)
