"""The stand-in of FlexAttention, held to FlexAttention's own functions and to the definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from naive import full_mask, masked_attention
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

from ablab.model.attention.flex import call
from ablab.model.attention.flex.call import SMALLEST, MaskMod, attend, compiled, dense, fused, own_limit, using, wanted
from ablab.model.attention.flex.masks import BLOCK, block_mask, mask_of
from ablab.model.attention.flex.rule import Scoring, merged
from ablab.model.attention.local import Local

MakeProblem = Callable[..., Any]
T = 2 * BLOCK + 20
WINDOW = Local(back=30, ahead=0)


def padded_window(padding: Tensor) -> MaskMod:
    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return WINDOW(query, key) & ~padding[batch, key]

    return seen


def test_rules_read_tensors_as_flex_attention_calls_them(make_problem: MakeProblem) -> None:
    """FlexAttention calls a rule with single indices, by vmap, and the stand-in with all of them at once."""
    problem = make_problem(length=40, padded="left", dtype=torch.float32)
    (q, k, v), padding = problem.inputs(), problem.padding()
    seen = padded_window(padding)
    out, lse = attend(q, k, v, seen)
    mask = create_mask(seen, 2, 2, 40, 40, device="cpu")
    torch.testing.assert_close(out, masked_attention(q, k, v, mask))
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
    assert lse.isneginf().any()
    torch.testing.assert_close(lse, scores.logsumexp(-1))


@pytest.mark.parametrize("alone", [True, False])
def test_blocks_that_a_mask_leaves_out_are_left_out(make_problem: MakeProblem, alone: bool) -> None:
    """And what it takes as a whole is seen as a whole: a block mask that does not belong to the rule shows."""
    q, k, v = make_problem(length=T).inputs()
    blocks = block_mask(Local(back=T, ahead=0), T, T, q.device, alone=alone)

    def all_of_them(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key >= 0

    def nobody(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key < 0

    places = torch.arange(T)
    ahead = (places // BLOCK)[:, None] - places // BLOCK
    partial, full = ((ahead == 0), (ahead > 0)) if alone else ((ahead >= 0), (ahead < -T))
    for mask_mod, mask in ((all_of_them, partial | full), (nobody, full)):
        out, lse = attend(q, k, v, mask_mod, block_mask=blocks)
        torch.testing.assert_close(out, masked_attention(q, k, v, mask))
        assert torch.equal(lse.isneginf(), ~mask.any(-1).expand(lse.shape))


def test_branches_over_different_keys_merge_to_one_softmax_with_gradients(make_problem: MakeProblem) -> None:
    problem = make_problem(length=60, heads=(4, 2), padded="left")
    (q, k, v), padding = problem.inputs(), problem.padding()
    far, mask = Local(back=59, ahead=0), full_mask(60, causal=True) & ~padding[:, None, None]

    def beyond(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        found: Tensor = far(query, key) & ~WINDOW(query, key) & ~padding[batch, key]
        return found

    out, lse = merged(*attend(q, k, v, padded_window(padding)), *attend(q, k, v, beyond))
    expected = masked_attention(q, k, v, mask)
    torch.testing.assert_close(out, expected)
    scores = (q @ k.repeat_interleave(2, 1).mT / math.sqrt(8)).masked_fill(~mask, -math.inf)
    seen = mask.any(-1).expand(lse.shape)
    torch.testing.assert_close(lse[seen], scores.logsumexp(-1)[seen])
    assert lse[~seen].isneginf().all()
    ours = torch.autograd.grad(out.square().sum() + lse[seen].sum(), (q, k, v))
    theirs = torch.autograd.grad(expected.square().sum() + scores.logsumexp(-1)[seen].sum(), (q, k, v))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_the_gradient_of_everything_that_scores_read(make_problem: MakeProblem) -> None:
    q, k, v = make_problem(length=5, sizes=(2, 2)).inputs()
    spans = torch.rand(2, 2, 5, dtype=torch.float64).mul(6).requires_grad_()

    def both(q: Tensor, k: Tensor, v: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
        scoring = Scoring(softcap=2.0, slopes=torch.tensor([0.1, 0.4]), spans=spans, ramp=3.3)
        return attend(q, k, v, lambda b, h, i, j: i >= j, score_mod=scoring.mod(q))

    assert torch.autograd.gradcheck(both, (q, k, v, spans))


def test_precision_and_autocast(make_problem: MakeProblem) -> None:
    q, k, v = make_problem(length=50, dtype=torch.float32).inputs()
    exact, _ = attend(q, k, v, padded_window(torch.zeros(2, 50, dtype=torch.bool)))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            mixed, lse = attend(q, k, v.to(dtype), padded_window(torch.zeros(2, 50, dtype=torch.bool)))
        assert (mixed.dtype, lse.dtype) == (dtype, torch.float32)
        torch.testing.assert_close(mixed.float(), exact, rtol=2e-2, atol=2e-2)


def test_the_way_is_taken_on_cuda_and_where_an_engine_is_set() -> None:
    q = torch.zeros(1, 1, 1, 16)
    assert not wanted(q)
    for engine in ("dense", "compiled", dense):
        with using(engine):
            assert wanted(q)
            with using("dense"):
                assert wanted(q.double())
            assert wanted(q)
    assert not wanted(q)


def test_small_heads_are_filled_up_for_the_kernels(make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which none takes fewer than 16 coordinates."""
    asked = []

    def flex(q: Tensor, k: Tensor, v: Tensor, *, block_mask: Any, scale: float, **others: Any) -> Any:
        asked.append({x.shape[-1] for x in (q, k, v)})
        out, lse = dense(q, k, v, block_mask.mask_mod, block_mask, None, scale)
        return out, type("Beside", (), {"lse": lse})

    monkeypatch.setattr("ablab.model.attention.flex.call._made_compiled", lambda function: flex)
    problem = make_problem(length=T, sizes=(8, 4), padded="holes")
    (q, k, v), seen = problem.inputs(), padded_window(problem.padding())
    for blocks in (None, block_mask(WINDOW, T, T, q.device, alone=False)):
        with using(compiled):
            ours = attend(q, k, v, seen, block_mask=blocks)
        for mine, other in zip(ours, attend(q, k, v, seen, block_mask=blocks), strict=True):
            torch.testing.assert_close(mine, other)
    assert asked == [{SMALLEST}] * 2


@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns of what it does itself
@pytest.mark.slow  # FlexAttention compiles its kernel for a CPU, which takes a minute
def test_flex_attention_compiled_for_a_cpu_gives_the_same_output(make_problem: MakeProblem) -> None:
    """It has neither a backward pass nor a log-sum-exp there."""
    from torch.nn.attention.flex_attention import flex_attention

    from ablab.model.attention.flex.call import _with_rule

    problem = make_problem(length=T, heads=(4, 2), sizes=(16, 16), padded="holes", dtype=torch.float32)
    (q, k, v), scoring = problem.inputs(), Scoring(softcap=2.0, slopes=torch.tensor([0.1, 0.2, 0.3, 0.4]))
    seen = padded_window(problem.padding())
    blocks = block_mask(WINDOW, T, T, q.device, alone=False)
    q, k, v = (x.detach() for x in (q, k, v))
    with torch.no_grad():
        given: dict[str, Any] = {"score_mod": scoring.mod(q), "block_mask": _with_rule(blocks, seen)}
        found = torch.compile(flex_attention)(q, k, v, enable_gqa=True, **given)
    torch.testing.assert_close(found, attend(q, k, v, seen, block_mask=blocks, score_mod=scoring.mod(q))[0])


def test_a_limit_of_its_own_is_asked_for_where_pytorch_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_before(model: Any = None, *, fullgraph: bool = False, dynamic: bool | None = None) -> Any:
        return model

    assert own_limit(3) in ({"recompile_limit": 3, "isolate_recompiles": True}, {})
    torch.compile(lambda x: x, backend="eager", **own_limit(3))
    monkeypatch.setattr(torch, "compile", of_before)
    with torch._dynamo.config.patch(recompile_limit=8):
        for asked, limit in ((3, 8), (30, 30)):  # that of the process serves all
            assert own_limit(asked) == {}
            assert torch._dynamo.config.recompile_limit == limit


def test_more_lengths_than_are_kept_compiled_are_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As prompts have them. At its limit PyTorch raises an error where a function must be of one graph."""
    compilations = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    def doubled(x: Tensor) -> Tensor:
        return 2 * x

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(call, "RULES", 3)
    found = fused(doubled)
    with using("compiled"):
        for length in (1, 2, 3, 4, 4, 5, 1):
            assert torch.equal(found(torch.ones(length)), torch.full((length,), 2.0))
    assert len(compilations) == 6


def test_no_blocks_at_all_are_no_attention(make_problem: MakeProblem) -> None:
    q, k, v = make_problem(length=T).inputs()
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    out, lse = attend(q, k, v, lambda b, h, i, j: i >= j, block_mask=mask_of(nothing, None, T, T, q.device))
    assert not out.any()
    assert lse.isneginf().all()
    assert not any(x.any() for x in torch.autograd.grad(out.sum(), (q, k, v)))
