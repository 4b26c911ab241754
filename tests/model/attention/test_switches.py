"""Sinks and bounded scores: with every core that takes them, as they are defined."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from ablab.config import conf_folder
from ablab.model.attention import block_sparse, dense, windowed
from ablab.model.attention.base import AttentionCore, repeat_heads
from ablab.model.attention.full import FullAttention
from ablab.model.attention.layer import attention_layer
from ablab.model.initialisation import initialise
from ablab.model.spec import LayerSpec
from ablab.model.transformer import Transformer

Spec = Callable[..., LayerSpec]
MakeProblem = Callable[..., Any]
Load = Callable[..., Any]
Build = Callable[..., Transformer]

FILES = {path.stem: OmegaConf.load(path) for path in sorted((conf_folder() / "attention").glob("*.yaml"))}
CORES = [
    name for name, node in FILES.items() if "sinks" in node and issubclass(get_class(node._target_), AttentionCore)
]
SMALL = {"window": 5, "bucket_size": 4, "rounds": 2, "ramp": 3.0, "block": 4, "keys": 4, "dense_below": 0}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def make(load_option: Load, name: str, problem: Any, **changes: Any) -> AttentionCore:
    small = {key: value for key, value in SMALL.items() if key in FILES[name]}
    core: AttentionCore = load_option("attention", name, **small | changes)(problem.spec)
    if core.sinks is not None:
        nn.init.normal_(core.sinks, generator=torch.Generator().manual_seed(5))
    return core.to(problem.dtype).eval()


@pytest.mark.parametrize("name", [name for name, node in FILES.items() if "sinks" in node])
def test_gradients_are_those_of_the_sinks_that_were_there_in_the_forward_pass(
    name: str, make_spec: Spec, load_option: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is computed again for the backward pass must not read them from the module anew."""
    monkeypatch.setattr(block_sparse, "DENSE_BELOW", 0)
    small = {key: value for key, value in SMALL.items() if key in FILES[name]}
    layer = attention_layer(make_spec(), load_option("attention", name, **small, sinks=True)).double()
    initialise(layer, 0)
    x = torch.randn(1, 24, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    others = {key: value.detach() + 1 for key, value in layer.named_parameters() if key.endswith("sinks")}
    called = torch.func.functional_call(layer, others, (x, lambda q, k: (q, k)))
    (found,) = torch.autograd.grad(called.square().sum(), x)
    layer.load_state_dict(others, strict=False)
    (expected,) = torch.autograd.grad(layer(x, lambda q, k: (q, k)).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def multiples(plain: AttentionCore, problem: Any, share_qk: bool) -> Tensor:
    """What exp(score) is multiplied by in a core without switches, (B, H, T, T), told from its weights alone.

    With the identity as values the output is the weights; over exp(score), and over the largest of a row, these are
    1 for each key that is seen as any other, and less at a soft edge.
    """
    q, k, _ = (x.detach() for x in problem.inputs(share_qk=share_qk))
    values = torch.eye(problem.length, dtype=q.dtype).expand(*k.shape[:2], -1, -1)
    weights = plain(q, k, values, problem.padding()).double()
    each: Tensor = (weights.log() - products(q.double(), k.double())).masked_fill(weights == 0, -math.inf)
    shares: Tensor = (each - each.amax(-1, keepdim=True)).exp().nan_to_num(0.0)
    return shares


def products(q: Tensor, k: Tensor) -> Tensor:
    return q @ repeat_heads(k, q.shape[1]).transpose(-1, -2) / math.sqrt(q.shape[-1])


def reference(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, *, seen: Tensor, softcap: float | None) -> Tensor:
    scores = products(q, k)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    unnormalised = seen * scores.exp()
    total = unnormalised.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks[:, None, None].exp()
    mixed: Tensor = unnormalised / total.clamp(min=1e-300) @ repeat_heads(v, q.shape[1])
    return mixed


@pytest.mark.parametrize(
    ("name", "dense_below"), [*((name, 384) for name in CORES), ("windowed", 0), ("block_sparse", 0)]
)
def test_outputs_and_gradients_are_those_of_the_definition(
    name: str,
    dense_below: int,
    load_option: Load,
    problems: st.SearchStrategy[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (windowed, block_sparse):
        monkeypatch.setattr(module, "DENSE_BELOW", dense_below)
    monkeypatch.setattr(dense, "SLICE", 2**12)  # so that slices are cut at these lengths

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(
        problem=problems,
        switches=st.sampled_from([{"sinks": True}, {"softcap": 0.8}, {"sinks": True, "softcap": 1.5}]),
        share_qk=st.booleans(),
    )
    def check(problem: Any, switches: dict[str, Any], share_qk: bool) -> None:
        share_qk = share_qk and problem.heads[0] == problem.heads[1] and problem.dtype == torch.float64
        core = make(load_option, name, problem, share_qk=share_qk, **switches)
        seen = multiples(make(load_option, name, problem, share_qk=share_qk), problem, share_qk)
        inputs, padding = problem.inputs(share_qk=share_qk), problem.padding()
        leaves = [*inputs, *([] if core.sinks is None else [core.sinks])]
        exact = [x.detach().double().requires_grad_() for x in leaves]
        out = core(*inputs, padding)
        sinks = exact[3] if len(exact) > 3 else None
        q, k, v = exact[:3]
        expected = reference(q, k, v, sinks, seen=seen, softcap=core.softcap)
        direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        if padding is not None:  # what is made of padded queries means nothing
            direction = direction.masked_fill(padding[:, None, :, None], 0)
        assert out.dtype == problem.dtype
        ours = torch.autograd.grad(out, leaves, direction.to(out.dtype), allow_unused=True, materialize_grads=True)
        theirs = torch.autograd.grad(expected, exact, direction, allow_unused=True, materialize_grads=True)
        kept = direction != 0
        for mine, other in zip((out * kept, *ours), (expected * kept, *theirs), strict=True):
            size = TOLERANCE[problem.dtype] * max(1.0, other.abs().max().item())
            torch.testing.assert_close(mine.double(), other, rtol=TOLERANCE[problem.dtype], atol=size)

    check()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("name", CORES)
def test_weights_tell_the_truth_and_leave_the_sink_its_share(
    name: str, softcap: float | None, causal: bool, load_option: Load, make_problem: MakeProblem
) -> None:
    problem = make_problem(length=40, heads=(4, 2), causal=causal)
    core = make(load_option, name, problem, sinks=True, softcap=softcap)
    q, k, v = (x.detach() for x in problem.inputs())
    positions = torch.tensor([39, 0, 17])
    weights, visited = core.weights(q, k, positions), core.visited(q, k, positions)
    assert torch.equal(weights > 0, visited.expand_as(weights))
    assert (weights.sum(-1) < 1).all()
    torch.testing.assert_close(core(q, k, v)[:, :, positions], weights @ repeat_heads(v, 4), rtol=1e-9, atol=1e-9)
    assert core.sinks is not None
    nn.init.constant_(core.sinks, -1e9)  # takes nothing
    bare = make(load_option, name, problem, softcap=softcap)
    torch.testing.assert_close(core.weights(q, k, positions), bare.weights(q, k, positions), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CORES)
def test_slopes_are_taken_from_bounded_scores(name: str, load_option: Load, make_problem: MakeProblem) -> None:
    problem = make_problem(length=40)
    core = make(load_option, name, problem, sinks=True, softcap=0.8)
    if not core.takes_slopes:
        pytest.skip("takes no slopes")
    core.weigh_down(torch.tensor([0.5, 0.1], dtype=torch.float64))
    q, k, v = (x.detach() for x in problem.inputs())
    every = torch.arange(40)
    expected = core.weights(q, k, every)
    assert core.sinks is not None
    scores = 0.8 * torch.tanh(products(q, k) / 0.8)
    scores -= torch.tensor([0.5, 0.1])[:, None, None] * (every[:, None] - every).abs()
    ratio = (expected[..., 39, :] / scores[..., 39, :].exp())[expected[..., 39, :] > 0]
    if name != "dynamic":  # whose edge is soft
        counted = (expected[..., 39, :] > 0).sum(-1).flatten().tolist()
        assert all(torch.allclose(each, each[:1]) for each in ratio.split(counted))
    torch.testing.assert_close(core(q, k, v), expected @ v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "softcap"),
    [("full", None), ("full", 0.8), ("windowed", 0.8), ("lsh", None), ("dynamic", None), ("topk", None)],
)
def test_half_precision_compiled_and_measured_without_numbers(
    name: str, softcap: float | None, load_option: Load, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windowed, "DENSE_BELOW", 0)
    problem = make_problem(length=50, padded="left", dtype=torch.float32)
    core, inputs = make(load_option, name, problem, sinks=True, softcap=softcap), problem.inputs()
    padding = problem.padding()
    out = core(*inputs, padding)
    leaves = [*inputs, *core.parameters()]
    expected = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True, materialize_grads=True)
    torch.compiler.reset()
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")(*inputs, padding)
    found = torch.autograd.grad(compiled.square().sum(), leaves, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close([compiled, *found], [out, *expected], rtol=1e-4, atol=1e-5)
    half = core.bfloat16()(*(x.bfloat16() for x in inputs), padding)
    assert half.dtype == torch.bfloat16
    if name not in ("lsh", "topk"):  # where rounding changes who is seen
        tokens = ~padding[:, None, :, None]
        torch.testing.assert_close(half.float() * tokens, out * tokens, rtol=0.05, atol=0.05)
    meta = core.float().to("meta")(*(x.detach().to("meta") for x in inputs), padding.to("meta"))
    assert meta.shape == out.shape


@pytest.mark.parametrize(("share_qk", "padded"), [(True, "holes"), (False, None)])
def test_the_operator_with_switches_is_what_pytorch_expects(
    check_operators: Callable[..., set[str]],
    load_option: Load,
    make_problem: MakeProblem,
    monkeypatch: pytest.MonkeyPatch,
    share_qk: bool,
    padded: str | None,
) -> None:
    monkeypatch.setattr(windowed, "DENSE_BELOW", 0)
    problem = make_problem(length=50, padded=padded)
    core = make(load_option, "windowed", problem, window=3, sinks=True, softcap=0.8, share_qk=share_qk)
    assert len(check_operators(core, problem, share_qk=share_qk)) == 2


def saved_elements(core: AttentionCore, problem: Any) -> int:
    """The most elements of a tensor that backward keeps."""
    most = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal most
        most = max(most, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        core(*problem.inputs())
    return most


@pytest.mark.parametrize("switches", [{"sinks": True}, {"softcap": 0.8, "sinks": True}])
def test_neither_keeps_a_matrix_of_weights(
    make_problem: MakeProblem, switches: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "SLICE", 2**14)
    problem = make_problem(length=512, batch=1, heads=(1, 1), dtype=torch.float32)
    assert saved_elements(FullAttention(problem.spec, **switches), problem) <= 513 * 16
