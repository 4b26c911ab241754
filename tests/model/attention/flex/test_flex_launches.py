"""How many kernels an option starts on CUDA in a training step, however long the sequence.

Counted as a GPU would see it, on a CPU: every operation of PyTorch that computes is one launch (views are none), what
is compiled (FlexAttention itself, and the functions that are `fused`) is one launch forward and, FlexAttention with its
two kernels there, at most two backward. Projections around a core are not counted. What a number says is that nothing
is done piece by piece: the ways of a CPU make hundreds and thousands of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxOutput, flex_attention
from torch.utils._python_dispatch import TorchDispatchMode

from ablab.model.attention import block_sparse, windowed
from ablab.model.attention.block_sparse import BlockSparseAttention
from ablab.model.attention.compressed import CompressedSparseAttention, HeavilyCompressedAttention
from ablab.model.attention.dsa import DeepSeekSparseAttention
from ablab.model.attention.flex import call
from ablab.model.attention.flex.call import dense, using
from ablab.model.attention.flex.rule import Scoring, rule_attention
from ablab.model.attention.local import Local
from ablab.model.attention.nsa import NativeSparseAttention
from ablab.model.attention.selected import SelectedAttention
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]
FREE = (
    "detach",
    "_unsafe_view",
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "lift_fresh",
    "scalar_tensor",
    "promote_types",
)


class Launches(TorchDispatchMode):
    """Counts what computes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self.inside = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not self.inside and not views and func._schema.name.removeprefix("aten::") not in FREE:
            self.count += 1
        return func(*args, **(kwargs or {}))

    def once(self, function: Callable[..., Any], launches: int = 1) -> Any:
        self.count, outside, self.inside = self.count + (0 if self.inside else launches), self.inside, True
        try:
            return function()
        finally:
            self.inside = outside


def as_compiled(launches: Launches, function: Any) -> Callable[..., Any]:
    """`torch.compile(function)` as it is counted: one launch forward, and one backward, or FlexAttention's two."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, compute: Callable[..., tuple[Tensor, ...]], *given: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                ctx.given = [x.detach().requires_grad_(x.requires_grad) for x in given]
                ctx.made = launches.once(lambda: compute(*ctx.given))
            out = tuple(x.detach() for x in ctx.made)
            ctx.mark_non_differentiable(*(x for x in out if not x.is_floating_point()))
            return out

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            made, grads = zip(*((x, g) for x, g in zip(ctx.made, grads, strict=True) if x.requires_grad), strict=True)
            wanted = [x for x in ctx.given if x.requires_grad]
            found = launches.once(
                lambda: torch.autograd.grad(made, wanted, grads, allow_unused=True),
                2 if function is flex_attention else 1,
            )
            each = iter(found)
            return None, *(next(each) if x.requires_grad else None for x in ctx.given)

    def run(*args: Any, **kwargs: Any) -> Any:
        places = [place for place, x in enumerate(args) if isinstance(x, Tensor)]

        def compute(*given: Tensor) -> tuple[Tensor, ...]:
            filled: list[Any] = [given[places.index(n)] if n in places else x for n, x in enumerate(args)]
            if function is flex_attention:
                blocks = kwargs["block_mask"]
                return dense(*filled[:3], blocks.mask_mod, blocks, kwargs["score_mod"], kwargs["scale"])  # type: ignore[call-arg]
            made = function(*filled, **kwargs)
            return made if isinstance(made, tuple) else (made,)

        made = Once.apply(compute, *(args[place] for place in places))  # type: ignore[no-untyped-call]
        if function is flex_attention:
            return made[0], AuxOutput(lse=made[1])
        return made if len(made) > 1 else made[0]

    return run


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    """Within it the way of CUDA is taken, in one slice, and counted."""
    monkeypatch.setattr(windowed, "DENSE_BELOW", 0)
    monkeypatch.setattr(block_sparse, "DENSE_BELOW", 0)
    for name in ("choosing", "entries", "native"):
        monkeypatch.setattr(f"ablab.model.attention.flex.{name}.SLICE", 2**28)
    counted = Launches()
    monkeypatch.setattr(call, "_made_compiled", lambda function: as_compiled(counted, function))
    with using("compiled"):
        yield counted


def step(launches: Launches, core: Any, inputs: list[Tensor], index: tuple[Tensor, ...] | None) -> int:
    """What a step of training starts, the loss included."""
    given = [x.requires_grad_() for x in (*inputs, *(index or ())) if x.dtype != torch.bool]
    before = launches.count
    with launches:
        out = core(*inputs) if index is None else core(*inputs, index=index)
        learning = getattr(core, "learning", None)
        loss = out.sum() if learning is None else out.sum() + learning.penalty()
        torch.autograd.grad(loss, [*given, *getattr(core, "parameters", list)()], allow_unused=True)
    return launches.count - before


def made(spec: LayerSpec, name: str, T: int) -> tuple[Any, list[Tensor], tuple[Tensor, ...] | None]:
    """A core, its inputs, and its index."""
    q, k, v = (torch.randn(1, 4, T, 16) for _ in range(3))
    small: dict[str, Any] = {"window": 100}
    if name == "windowed":
        return WindowedAttention(spec, window=100), [q, k, v], None
    if name == "windowed, every switch":
        core = WindowedAttention(spec, sinks=True, softcap=5.0, share_qk=True, global_tokens=2, window=100)
        core.weigh_down(torch.ones(4))
        return core, [q, k, v], None
    if name == "spans":
        rule, spans = Local(back=99, ahead=0), torch.full((4,), 30.0)
        return lambda q, k, v: rule_attention(q, k, v, rule, scoring=Scoring(spans=spans, ramp=8.0)), [q, k, v], None
    if name == "block_sparse":
        return BlockSparseAttention(spec, block=32, random_blocks=1), [q, k, v], None
    if name == "nsa":
        sizes: dict[str, Any] = {"compress_block": 32, "compress_stride": 16, "select_block": 32, "selected_blocks": 4}
        native = NativeSparseAttention(spec, **sizes, **small).core
        return native, [x.repeat(1, 1, 1, 3) for x in (q, k, v)], None
    if name == "selected":
        layer: Any = SelectedAttention(spec, granularity="block", scorer="pooled", keys=128, block=32)
        return layer.core, [q, k, v], None
    if name == "dsa":
        index = torch.randn(1, 2, T, 16), torch.randn(1, 2, T), torch.randn(1, 1, T, 16)
        return DeepSeekSparseAttention(spec, keys=50, index_heads=2).core, [q, k, v], index
    block = 4 if name == "csa" else 32
    entries, there = torch.randn(1, 1, T // block, 16), torch.ones(1, T // block, dtype=torch.bool)
    own = [q, k[:, :1].contiguous(), v[:, :1].contiguous()]
    if name == "hca":
        return HeavilyCompressedAttention(spec, block=block, **small).core, own, (entries, there)
    layer = CompressedSparseAttention(spec, block=block, keys=20, index_heads=2, **small)
    index = torch.randn(1, 2, T, 16), torch.randn(1, 2, T), torch.randn(1, 1, T // block, 16)
    return layer.core, own, (entries, there, *index)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("windowed", 8),
        ("windowed, every switch", 16),
        ("spans", 10),
        ("block_sparse", 8),
        ("nsa", 66),
        ("selected", 22),
        ("dsa", 26),
        ("csa", 32),
        ("hca", 18),
    ],
)
def test_a_step_starts_few_kernels_however_long_the_sequence(
    make_spec: Spec, launches: Launches, name: str, most: int
) -> None:
    spec = make_spec(d_model=64, n_heads=4, max_length=1024)
    counts = []
    for length in (512, 1024):
        given = made(spec, name, length)
        step(launches, *given)  # which makes what is made once for a length
        counts.append(step(launches, *given))
    assert counts[0] == counts[1]
    assert counts[0] <= most
