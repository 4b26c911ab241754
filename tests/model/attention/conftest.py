"""Problems to solve by attention, small and of every kind, and how a core is held to its definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ablab.model.attention import kernel
from ablab.model.attention.base import AttentionCore
from ablab.model.spec import LayerSpec

# Primes, and both sides of multiples of 64, which is what cores cut a sequence into.
LENGTHS = (1, 2, 3, 5, 13, 31, 63, 64, 65, 97, 127, 128, 129, 191, 257, 331)
HEADS = ((1, 1), (2, 2), (3, 1), (4, 2), (4, 4))  # of queries, and of keys and values
LAYOUTS = ("contiguous", "transposed", "expanded", "strided")
PADDINGS = (None, "left", "right", "holes", "sequence", "everything")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Queries, keys and values to draw, and where the padding is."""

    length: int = 40
    batch: int = 2
    heads: tuple[int, int] = (2, 2)
    sizes: tuple[int, int] = (8, 8)  # of a head's queries and keys, and of its values
    causal: bool = True
    padded: str | None = None
    layout: str = "contiguous"
    dtype: torch.dtype = torch.float64
    seed: int = 0

    @property
    def spec(self) -> LayerSpec:
        (H, K), (D, _) = self.heads, self.sizes
        sizes: dict[str, Any] = {"d_model": H * D, "n_heads": H, "n_kv_heads": K, "d_ff": 8, "max_length": 512}
        return LayerSpec(**sizes, layer_index=0, n_layers=1, causal=self.causal, seed=self.seed)

    def inputs(self, *, share_qk: bool = False) -> list[Tensor]:
        """q (B, H, T, D), k (B, K, T, D) and v (B, K, T, Dv), leaves that require a gradient."""
        (H, K), (D, Dv), generator = self.heads, self.sizes, torch.Generator().manual_seed(self.seed)
        q, k, v = (self._draw(heads, size, generator) for heads, size in ((H, D), (K, D), (K, Dv)))
        if share_qk:
            k = torch.nn.functional.normalize(q.double(), dim=-1).to(self.dtype)
        return [x.requires_grad_() for x in (q, k, v)]

    def padding(self) -> Tensor | None:
        """(B, T), true where there is no token."""
        B, T = self.batch, self.length
        positions, few = torch.arange(T).expand(B, T), torch.arange(1, B + 1).unsqueeze(-1) * T // (B + 2)
        holes = torch.rand(B, T, generator=torch.Generator().manual_seed(self.seed)) < 0.4
        kinds = {
            "left": positions < few,
            "right": positions >= T - few,
            "holes": holes,
            "sequence": (positions < few) | (torch.arange(B).unsqueeze(-1) == B - 1),
            "everything": torch.ones(B, T, dtype=torch.bool),
        }
        return None if self.padded is None else kinds[self.padded]

    def _draw(self, heads: int, size: int, generator: torch.Generator) -> Tensor:
        B, T = self.batch, self.length
        if self.layout == "transposed":
            return (
                torch.randn(B, T, heads, size, generator=generator, dtype=torch.float64).to(self.dtype).transpose(1, 2)
            )
        if self.layout == "expanded":
            one = torch.randn(B, 1, T, size, generator=generator, dtype=torch.float64).to(self.dtype)
            return one.expand(B, heads, T, size)
        step = 2 if self.layout == "strided" else 1
        x = torch.randn(B, heads, T * step, size * step, generator=generator, dtype=torch.float64).to(self.dtype)
        return x[:, :, ::step, ::step]


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    """make_problem(length=5, ...): see `Problem`."""

    def make(**changes: Any) -> Problem:
        return replace(Problem(), **changes)

    return make


@pytest.fixture(scope="session")
def problems() -> st.SearchStrategy[Problem]:
    """All kinds of problems."""
    return st.builds(
        Problem,
        length=st.sampled_from(LENGTHS),
        batch=st.integers(1, 3),
        heads=st.sampled_from(HEADS),
        sizes=st.sampled_from([(8, 8), (4, 4), (16, 16), (8, 4), (4, 8), (16, 8)]),
        causal=st.booleans(),
        padded=st.sampled_from(PADDINGS),
        layout=st.sampled_from(LAYOUTS),
        dtype=st.sampled_from([torch.float64, torch.float32]),
        seed=st.integers(0, 1000),
    )


@pytest.fixture(scope="session")
def agree() -> Callable[..., None]:
    """agree(core, problem, reference): the core's outputs and all its gradients are those of the reference.

    `reference(q, k, v, *parameters)` works in double precision, whatever the problem's. What a core makes of a padded
    query means nothing and is left out, except that it is finite, and zero where the query sees nothing.
    """

    def compare(
        core: AttentionCore, problem: Problem, reference: Callable[..., Tensor], *, share_qk: bool = False
    ) -> None:
        leaves = [*problem.inputs(share_qk=share_qk), *core.parameters()]
        exact = [x.detach().double().requires_grad_() for x in leaves]
        padding = problem.padding()
        out, expected = core(*leaves[:3], padding), reference(*exact)
        assert out.dtype == problem.dtype
        assert out.shape == expected.shape
        assert out.isfinite().all()
        assert not out[(expected == 0).all(-1)].any()
        direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        if padding is not None:
            direction = direction.masked_fill(padding[:, None, :, None], 0)
        ours = torch.autograd.grad(out, leaves, direction.to(out.dtype), allow_unused=True, materialize_grads=True)
        theirs = torch.autograd.grad(expected, exact, direction, allow_unused=True, materialize_grads=True)
        seen = direction != 0
        tolerance = TOLERANCE[problem.dtype]
        _assert_near(out.double() * seen, expected * seen, tolerance, "output")
        for name, mine, other in zip([*"qkv", *dict(core.named_parameters())], ours, theirs, strict=True):
            _assert_near(mine.double(), other, tolerance, f"gradient of {name}")

    return compare


@pytest.fixture(scope="session")
def check_operators() -> Callable[..., set[str]]:
    """check_operators(core, problem): PyTorch's own checks of the operators that the core calls, whose names return."""

    def check(core: AttentionCore, problem: Problem, *, share_qk: bool = False) -> set[str]:
        with _Calls() as calls:
            core(*problem.inputs(share_qk=share_qk), problem.padding()).square().sum().backward()
        for operator, args, kwargs in calls.made:
            differentiable = operator is calls.made[0][0]  # the forward operator; the backward one has no backward
            args = [_leaf(x, differentiable) for x in args]
            torch.library.opcheck(operator, tuple(args), kwargs)
        return {operator.name() for operator, _, _ in calls.made}

    return check


@pytest.fixture(params=["private kernel", "public operators"])
def either_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with PyTorch's private kernel, and with what stands in for it where it is missing."""
    if request.param == "public operators":
        monkeypatch.setattr(kernel, "flash_works", lambda: False)
    else:
        assert kernel.flash_works()


class _Calls(TorchDispatchMode):
    """Keeps the calls of this project's operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch says no types here
        self.made: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.namespace == "ablab":
            self.made.append((operator, args, kwargs or {}))
        return operator(*args, **(kwargs or {}))


def _leaf(x: Any, differentiable: bool) -> Any:
    if not isinstance(x, Tensor):
        return x
    return x.detach().clone().requires_grad_(differentiable and x.is_floating_point())


def _assert_near(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    # Elements of a gradient are sums, some of which nearly cancel: what counts is the size of what was summed.
    size = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(
        found, expected, rtol=tolerance, atol=tolerance * size, msg=lambda message: f"{what}: {message}"
    )
