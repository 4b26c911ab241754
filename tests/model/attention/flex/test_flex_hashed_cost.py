"""What hashed attention asks of a device: few launches, no waiting for it, and blocks in number as a band has.

The option takes its way to CUDA on tensors without data, which cannot be waited for, and every operator that PyTorch is
asked for is written down. Counted as launches are those that its compiler makes kernels of their own of: products,
sorts, searches, scatters, reductions and concatenations, each call of attention, and the gathers that a call is given.
What is elementwise, gathers else, views and what makes constants are computed by the kernels that read them. Nothing is
counted for being shared by kernels: the true number is lower.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, _transpose_ordered
from torch.utils._python_dispatch import TorchDispatchMode

from ablab.model.attention.base import AttentionCore
from ablab.model.attention.dynamic import DynamicAttention
from ablab.model.attention.flex.call import dense, using
from ablab.model.attention.flex.masks import BLOCK
from ablab.model.attention.flex.sorted import band
from ablab.model.attention.lsh import LSHAttention

MakeProblem = Callable[..., Any]
Make = Callable[..., AttentionCore]

KERNELS = {
    "mm", "bmm", "sort", "searchsorted", "scatter_", "scatter", "scatter_add", "index_put_", "index_add_", "cumsum",
    "sum", "amin", "amax", "any", "_softmax", "_softmax_backward_data", "logsumexp", "cat", "stack",
}  # fmt: skip
EXAMPLES: list[tuple[Make, dict[str, Any]]] = [
    (LSHAttention, {}),
    (LSHAttention, {"share_qk": True, "sinks": True}),
    (DynamicAttention, {"window": 20}),
    (DynamicAttention, {"window": 20, "span_per_query": True, "share_qk": True, "softcap": 2.0}),
]
LAUNCHES = [(22, 11), (15, 12), (24, 12), (19, 12)]  # of each example, forward and backward, at most


class Operators(TorchDispatchMode):
    """Counts what PyTorch is asked for, views aside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch says no types here
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aliases = [each.alias_info for each in operator._schema.returns]
        if not any(each is not None and not each.is_write for each in aliases):
            self.counts[operator.overloadpacket.__name__] += 1
        return operator(*args, **(kwargs or {}))

    def launches(self) -> int:
        return sum(count for name, count in self.counts.items() if name in KERNELS)


class Attention(torch.autograd.Function):
    """Stands for one call: as many tensors of the same shapes come out."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v)
        return q.new_empty(*q.shape[:3], v.shape[-1]), q.new_empty(q.shape[:3])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors)


def asked_for(make_problem: MakeProblem, kind: Make, options: dict[str, Any], **changes: Any) -> tuple[Any, ...]:
    """Operators of the forward and of the backward pass, and the calls of attention."""
    share_qk, calls = options.get("share_qk", False), []
    changes = {"heads": (4, 4) if share_qk else (4, 2), "sizes": (16, 16), "padded": "left"} | changes
    rounds = changes.pop("rounds", 2)
    problem = make_problem(dtype=torch.float32, **changes)
    core = kind(problem.spec, rounds=rounds, bucket_size=32, **options).to("meta")
    q, k, v = (x.detach().to("meta").requires_grad_() for x in problem.inputs(share_qk=share_qk))
    padding = problem.padding().to("meta")

    def engine(
        q: Tensor, k: Tensor, v: Tensor, mask_mod: Any, block_mask: Any, score_mod: Any, scale: float
    ) -> tuple[Tensor, Tensor]:
        calls.append(q.shape)
        out: tuple[Tensor, Tensor] = Attention.apply(q, k, v)  # type: ignore[no-untyped-call]
        return out

    with using(engine):
        core(q, k, v, padding)  # what is made once for a length is made here
    calls.clear()
    with using(engine), Operators() as forward:
        out = core(q, k, v, padding)
    with Operators() as backward:
        out.backward(torch.empty_like(out))
    return forward, backward, calls


@pytest.mark.parametrize(("example", "most"), list(zip(EXAMPLES, LAUNCHES, strict=True)))
def test_few_launches_however_much_there_is(
    make_problem: MakeProblem, example: tuple[Make, dict[str, Any]], most: tuple[int, int]
) -> None:
    kind, options = example
    forward, backward, calls = asked_for(make_problem, kind, options, length=150)
    assert len(calls) == (2 if kind is DynamicAttention else 1)
    given = 3  # gathers: queries, keys and values in order; in the backward pass those of outputs and of their sums
    assert forward.launches() + len(calls) + given <= most[0], forward.counts
    assert backward.launches() + 2 * len(calls) + given <= most[1], backward.counts
    more = asked_for(make_problem, kind, options, length=600, batch=5, rounds=4)
    assert len(more[2]) == len(calls)
    for few, many in zip((forward, backward), more, strict=False):
        assert few.launches() == many.launches()
        assert sum(many.counts.values()) <= sum(few.counts.values())


@pytest.mark.parametrize(("kind", "options"), EXAMPLES)
@pytest.mark.parametrize("causal", [True, False])
def test_nothing_waits_for_the_device(
    make_problem: MakeProblem, kind: Make, options: dict[str, Any], causal: bool
) -> None:
    """Tensors without data have no number to ask for, and no number of elements that hangs on data."""
    share_qk = options.get("share_qk", False)
    problem = make_problem(length=300, padded="holes", causal=causal, heads=(2, 2), dtype=torch.float32)
    core = kind(problem.spec, rounds=3, bucket_size=32, **options).to("meta")
    inputs = [x.detach().to("meta").requires_grad_() for x in problem.inputs(share_qk=share_qk)]
    with using(dense):
        core(*inputs, problem.padding().to("meta")).sum().backward()
    assert all(x.grad is not None for x in inputs)


@pytest.mark.parametrize("causal", [True, False])
def test_blocks_of_shared_buckets_hang_on_lengths_alone(causal: bool) -> None:
    length, back, device = 1000, 70, torch.device("cpu")
    blocks = band(length, back, 0 if causal else back, device)
    assert blocks is band(length, back, 0 if causal else back, device)
    queries, keys = torch.arange(length)[:, None], torch.arange(length)
    near = (keys >= queries - back) & (keys <= queries + (0 if causal else back))
    expected = torch.nn.functional.pad(near, (0, 24, 0, 24)).unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
    assert torch.equal(blocks.to_dense()[0, 0].bool(), expected.any(3).any(1))
    check_lists(blocks)


@pytest.mark.parametrize("kind", ["random", "one", "ends"])
def test_blocks_of_own_buckets_are_in_number_as_a_band_has(make_problem: MakeProblem, kind: str) -> None:
    """Wherever queries and keys are: besides the blocks of a band each block of keys comes once more at most."""
    problem = make_problem(length=3000, heads=(1, 1), batch=1)
    q, k, _ = (x.detach() for x in problem.inputs())
    if kind == "one":
        k = k[:, :, :1].expand_as(k)
    if kind == "ends":
        q = torch.where(torch.arange(3000)[:, None] % 1500 < 20, k[:, :, :1], -k[:, :, :1])
    core = LSHAttention(replace(problem.spec, max_length=3000), rounds=2, bucket_size=60)
    found: list[BlockMask] = []

    def engine(
        q: Tensor, k: Tensor, v: Tensor, mask_mod: Any, block_mask: BlockMask | None, score_mod: Any, scale: float
    ) -> tuple[Tensor, Tensor]:
        assert block_mask is not None
        found.append(block_mask)
        return q.new_zeros(v.shape), q.new_zeros(q.shape[:3])

    with using(engine):
        core(q, k, k)
    rows = -(-3000 // BLOCK)
    assert (found[0].kv_num_blocks.sum(-1) <= 3 * rows).all()
    check_lists(found[0])


def check_lists(blocks: BlockMask) -> None:
    """The lists for blocks of keys are those for blocks of queries, the other way round."""
    assert blocks.q_num_blocks is not None
    assert blocks.q_indices is not None
    counts, indices = _transpose_ordered(blocks.kv_num_blocks, blocks.kv_indices)
    assert torch.equal(blocks.q_num_blocks, counts)
    listed = torch.arange(indices.shape[-1]) < counts.unsqueeze(-1)
    assert torch.equal(blocks.q_indices[listed], indices[listed])


@pytest.mark.parametrize(("kind", "options"), EXAMPLES)
def test_it_is_one_graph(make_problem: MakeProblem, kind: Make, options: dict[str, Any]) -> None:
    share_qk = options.get("share_qk", False)
    problem = make_problem(length=150, heads=(2, 2), sizes=(16, 16), dtype=torch.float32, padded="left")
    core = kind(problem.spec, rounds=2, bucket_size=7, **options)
    inputs, padding = problem.inputs(share_qk=share_qk), problem.padding()
    parameters = [*inputs, *core.parameters()]

    def results(module: Callable[..., Tensor]) -> list[Tensor]:
        out = module(*inputs, padding)
        return [out, *torch.autograd.grad(out.square().sum(), parameters)]

    with using(dense):
        compiled = torch.compile(core, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(results(compiled), results(core), rtol=1e-4, atol=1e-5)
