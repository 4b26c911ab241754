"""Hashed attention by FlexAttention's stand-in, held to the definition; what it costs is in `test_flex_hashed_cost`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import dynamic_weight, lsh_mask, own_if_alone, without_own, without_padding
from switched import hold, switched_attention, with_slopes
from torch import Tensor

from ablab.model.attention.base import AttentionCore
from ablab.model.attention.buckets import Buckets, sort
from ablab.model.attention.cache import Step
from ablab.model.attention.dynamic import DynamicAttention
from ablab.model.attention.flex.call import using
from ablab.model.attention.flex.ordering import in_order
from ablab.model.attention.lsh import LSHAttention

MakeProblem = Callable[..., Any]
LENGTHS = (1, 5, 127, 128, 129, 200, 300, 385)  # below, at and around one block of FlexAttention's, and several
HEADS = ((1, 1), (2, 2), (4, 2), (3, 1))
PADDINGS = (None, None, "left", "right", "holes", "everything")
HASHINGS: tuple[dict[str, Any], ...] = (
    {}, {"buckets": 1}, {"buckets": 2}, {"buckets": 8}, {"factored": True}, {"buckets": 24, "factored": True},
)  # fmt: skip
SWITCHES: tuple[dict[str, Any], ...] = ({}, {}, {"sinks": True}, {"softcap": 1.5}, {"sinks": True, "softcap": 0.7})
DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16)

settings_of_hashing = st.builds(
    lambda rounds, bucket_size, others: {"rounds": rounds, "bucket_size": bucket_size, **others},
    st.integers(1, 4),
    st.sampled_from([1, 2, 7, 16, 64, 150, 400]),
    st.sampled_from(HASHINGS),
)
problems = st.fixed_dictionaries(
    {
        "length": st.sampled_from(LENGTHS),
        "heads": st.sampled_from(HEADS),
        "padded": st.sampled_from(PADDINGS),
        "causal": st.booleans(),
        "dtype": st.sampled_from(DTYPES),
        "seed": st.integers(0, 100),
    }
)


def check(
    problem: Any, core: AttentionCore, sloping: bool, seen_of: Callable[..., tuple[Tensor, Tensor | None]]
) -> None:
    """`seen_of(*parameters, q)` gives what is seen (B, H, T, T) and its weights, own keys of who is alone aside."""
    padding, heads = problem.padding(), problem.heads[0]
    generator = torch.Generator().manual_seed(problem.seed)
    parameters = dict(core.named_parameters())
    # Small, so that spans keep away from whole tokens only by chance.
    values = [torch.randn(x.shape, generator=generator, dtype=torch.float64) / 4 for x in parameters.values()]
    values = [x.to(torch.promote_types(problem.dtype, torch.float32)) for x in values]
    slopes = with_slopes(core, heads) if sloping else None

    def found(q: Tensor, k: Tensor, v: Tensor, *own: Tensor) -> Tensor:
        given = dict(zip(parameters, own, strict=True))
        out: Tensor = torch.func.functional_call(core, given, (q, k, v, padding))
        return out

    def expected(q: Tensor, k: Tensor, v: Tensor, *own: Tensor) -> Tensor:
        given = dict(zip(parameters, own, strict=True))
        sinks = given.pop("sinks", None)
        seen, weight = seen_of(q, *given.values())
        seen = without_padding(seen, padding)
        if core.share_qk or isinstance(core, LSHAttention):
            seen = own_if_alone(without_own(seen), padding)
        seen = seen.expand(len(q), heads, -1, -1)
        out: Tensor = switched_attention(q, k, v, seen, weight=weight, softcap=core.softcap, slopes=slopes, sinks=sinks)
        return out

    inputs = [*problem.inputs(share_qk=core.share_qk), *values]
    hold(found, expected, inputs, there=None if padding is None else ~padding)


def pairs(core: LSHAttention | DynamicAttention, problem: Any) -> Tensor:
    """What hashing brings: (B, H, T, T)."""
    q, k, _ = problem.inputs(share_qk=core.share_qk)
    assert core.hash is not None
    of_keys = core.hash(q if core.share_qk else k)  # which differ by rounding from the normalised queries'
    seen: Tensor = lsh_mask(core.hash(q), of_keys, core.hash.bucket_size, problem.causal, problem.padding())
    return seen


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    changes=problems,
    hashing=settings_of_hashing,
    share_qk=st.booleans(),
    switches=st.sampled_from(SWITCHES),
    sloping=st.booleans(),
)
def test_hashed_keys_are_those_of_the_definition(
    make_problem: MakeProblem,
    changes: dict[str, Any],
    hashing: dict[str, Any],
    share_qk: bool,
    switches: dict[str, Any],
    sloping: bool,
) -> None:
    problem = make_problem(sizes=(8, 4), **changes)
    share_qk = share_qk and len(set(problem.heads)) == 1
    core = LSHAttention(problem.spec, share_qk=share_qk, **hashing, **switches)
    seen = pairs(core, problem)
    check(problem, core, sloping, lambda q: (seen, None))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    changes=problems,
    hashing=settings_of_hashing,
    window=st.integers(1, 200),
    adapts=st.sampled_from([(True, True), (True, True), (True, False), (False, True)]),
    ramp=st.sampled_from([0.5, 3.7, 32.0, 150.0]),
    per_query=st.booleans(),
    share_qk=st.booleans(),
    switches=st.sampled_from(SWITCHES),
    sloping=st.booleans(),
)
def test_local_and_hashed_keys_are_those_of_the_definition(
    make_problem: MakeProblem,
    changes: dict[str, Any],
    hashing: dict[str, Any],
    window: int,
    adapts: tuple[bool, bool],
    ramp: float,
    per_query: bool,
    share_qk: bool,
    switches: dict[str, Any],
    sloping: bool,
) -> None:
    changes |= {"dtype": torch.float32} if changes["dtype"] == torch.bfloat16 else {}  # which moves spans by a token
    problem = make_problem(sizes=(8, 4), **changes)
    share_qk = share_qk and len(set(problem.heads)) == 1
    core = DynamicAttention(
        problem.spec, window=window, adapt_size=adapts[0], adapt_position=adapts[1], ramp=ramp,
        span_per_query=per_query and adapts[0], share_qk=share_qk, **hashing, **switches,
    )  # fmt: skip
    hashed = pairs(core, problem) if adapts[1] else None

    def seen_of(q: Tensor, *own: Tensor) -> tuple[Tensor, Tensor]:
        spans = None
        if own:
            shift = (own[1][:, None, :] * q).sum(-1) if len(own) > 1 else 0
            spans = window * (own[0][None, :, None] + shift).sigmoid()
        weight = dynamic_weight(problem.length, window, problem.causal, spans=spans, ramp=ramp, hashed=hashed)
        return (weight > 0).expand(len(q), q.shape[1], -1, -1), weight

    check(problem, core, sloping, seen_of)


@pytest.mark.parametrize("kind", ["same", "opposite", "zero", "keys", "few"])
@pytest.mark.parametrize("causal", [True, False])
def test_buckets_that_hold_everything_or_nothing(make_problem: MakeProblem, kind: str, causal: bool) -> None:
    """Blocks of queries then need all blocks of keys or none, and several blocks of queries the same ones."""
    problem = make_problem(length=420, causal=causal, dtype=torch.float32)
    q, _, v = problem.inputs()
    one, split = q.detach()[:, :, :1], torch.arange(420)[:, None] % 131 < 2
    kinds = {"same": (one, one), "opposite": (one, -one), "zero": (one * 0, one * 0), "keys": (q, one)}
    kinds["few"] = (torch.where(split, one, -one), torch.where(split, q.detach(), one))
    q, k = (x.detach().expand_as(q).contiguous() for x in kinds[kind])
    core = LSHAttention(problem.spec, rounds=3, bucket_size=9, buckets=8)
    seen = own_if_alone(lsh_mask(core.hash(q), core.hash(k), 9, causal), None)
    hold(core, lambda q, k, v: switched_attention(q, k, v, seen), [q, k, v])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 2), st.sampled_from(HEADS), st.integers(1, 60)),
    count=st.integers(1, 9),
    reach=st.tuples(st.integers(1, 20), st.booleans()),
    together=st.booleans(),
    seed=st.integers(0, 100),
)
def test_order_and_intervals_are_those_of_the_engine_for_cpus(
    sizes: tuple[int, int, tuple[int, int], int], count: int, reach: tuple[int, bool], together: bool, seed: int
) -> None:
    (rounds, B, (H, K), T), generator = sizes, torch.Generator().manual_seed(seed)
    K = H if together else K
    queries, keys = (
        torch.randint(n, (rounds, B, h, T), generator=generator)
        for n, h in ((count + together, H), (count + 1, K))  # padded keys are in bucket `count`
    )
    back, ahead = reach[0], reach[0] * reach[1]
    found = in_order(queries, None if together else keys, count, back, ahead)
    repeated = None if together else keys.repeat_interleave(H // K, 2)
    theirs = sort(Buckets(queries=queries, keys=repeated, count=count, back=back, ahead=ahead))
    first = torch.arange(B * H).repeat_interleave(T).view(1, B, H, T) * T

    def by_head(x: Tensor) -> Tensor:  # lists of items are (B, T, H)
        return x.view(rounds, B, H, T)

    assert torch.equal(found.queries, by_head(theirs.queries) // H % T)
    assert torch.equal(found.keys.repeat_interleave(H // K, 2), by_head(theirs.keys) // H % T)
    nothing = (theirs.upper < theirs.lower).view(rounds, B, H, T)
    assert torch.equal(found.upper < found.lower, nothing)
    for ours, other in ((found.lower, theirs.lower), (found.upper, theirs.upper)):
        assert torch.equal(ours[~nothing].long(), (by_head(other) - first)[~nothing])
    for order, back_again in ((found.queries, found.places), (found.keys, found.slots)):
        assert torch.equal(order.gather(-1, back_again), torch.arange(T).expand(order.shape))


@pytest.mark.parametrize("kind", [LSHAttention, DynamicAttention])
@pytest.mark.parametrize("length", [20, 40])
def test_short_sequences_and_caches_give_what_they_give_on_a_cpu(
    make_problem: MakeProblem, kind: Callable[..., AttentionCore], length: int
) -> None:
    problem = make_problem(length=length, heads=(4, 2))
    options = {"window": 6} if kind is DynamicAttention else {}
    core = kind(problem.spec, rounds=2, bucket_size=4, dense_below=30, **options).double().eval()
    inputs = [x.detach() for x in problem.inputs()]

    def passes() -> list[Tensor]:
        cache = core.new_cache(2, 64, heads=2, size=8, like=inputs[1])
        assert cache is not None
        outs = [core(*inputs)]
        for first, last in ((0, length - 3), (length - 3, length)):
            positions = torch.arange(first, last).expand(2, -1)
            step = Step(positions=positions, there=None, before=first, total=last)
            q, k, v = (x[:, :, first:last] for x in inputs)
            outs.append(core.extend(q, k, v, cache, step))
        return outs

    plain = passes()
    with using("dense"):
        torch.testing.assert_close(passes(), plain, rtol=1e-9, atol=1e-9)


def both(core: AttentionCore, inputs: list[Tensor], padding: Tensor, device: str) -> list[Tensor]:
    """The output and the gradients of q, k and v, as they come from `device`."""
    moved = [x.detach().to(device).requires_grad_() for x in inputs]
    out = core.to(device)(*moved, padding.to(device)).masked_fill(padding.to(device)[:, None, :, None], 0)
    return [x.cpu() for x in (out, *torch.autograd.grad(out.square().sum(), moved))]


@pytest.mark.slow
@pytest.mark.cuda
@pytest.mark.parametrize("kind", [LSHAttention, DynamicAttention])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("switches", [{}, {"share_qk": True}, {"sinks": True, "softcap": 2.0}])
def test_outputs_and_gradients_on_cuda_are_those_of_the_cpu(
    make_problem: MakeProblem, kind: Callable[..., AttentionCore], causal: bool, switches: dict[str, Any]
) -> None:
    heads = (2, 2) if switches.get("share_qk") else (4, 2)
    options = switches | ({"window": 20, "span_per_query": True} if kind is DynamicAttention else {})
    problem = make_problem(length=300, heads=heads, sizes=(16, 16), causal=causal, padded="holes", dtype=torch.float32)
    core = kind(problem.spec, rounds=2, bucket_size=30, **options)
    inputs = problem.inputs(share_qk=core.share_qk)
    expected, found = (both(core, inputs, problem.padding(), device) for device in ("cpu", "cuda"))
    for ours, theirs in zip(found, expected, strict=True):
        # CUDA may multiply with fewer bits than the CPU, and a vector between two buckets go into the other one.
        assert (ours - theirs).norm() < 2e-2 * theirs.norm()
