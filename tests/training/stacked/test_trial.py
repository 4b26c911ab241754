"""Which runs can be stacked is found by trying: what can be is, and what cannot says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.functional import scaled_dot_product_attention

from ablab.config import RunConfig
from ablab.model.attention.folded import FoldedSeeds
from ablab.model.attention.local import Local
from ablab.model.attention.operators import sparse_attention
from ablab.model.feed_forward.base import Dense
from ablab.training.build import BuiltRun
from ablab.training.stacked.trial import why_not_stacked

TinyConfig = Callable[..., RunConfig]


@pytest.mark.parametrize(
    "asked",
    [
        "attention=full",
        "attention=windowed attention.window=8",
        "attention=lsh attention.dense_below=0",
        "attention=dynamic",
        "position=rope norm=rms activation=swiglu",
        "optimizer=muon",
        "schedule=plateau",
        "task=parity",
    ],
)
def test_what_can_be_stacked(tiny_config: TinyConfig, asked: str) -> None:
    assert why_not_stacked(BuiltRun.of(tiny_config(*asked.split()))) is None


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("model.dropout=0.1", "cannot be made for several seeds"),
        ("trainer.precision=bf16-mixed", "trainer.precision=bf16-mixed"),
        ("trainer.profiler=simple", "trainer.profiler"),
        ("budget.match=time", "budget.match=time"),
        ("strategy=ddp trainer.devices=2", "strategy=ddp"),
    ],
)
def test_what_cannot_be_stacked(tiny_config: TinyConfig, asked: str, why: str) -> None:
    assert why in str(why_not_stacked(BuiltRun.of(tiny_config(*asked.split()))))


class Counting(Dense):
    """Learns from what it saw in training: of one that is stacked there is nothing to learn from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.level: Tensor
        self.register_buffer("level", torch.zeros(()))
        self.seen: Tensor | None = None

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        self.seen = x.detach().mean()
        return super().forward(x, *args)

    def after_step(self) -> None:
        if isinstance(self.seen, Tensor):
            self.level.add_(self.seen)


def test_a_component_that_follows_what_it_saw_is_found(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    config.options["feed_forward"] = {**config.options["feed_forward"], "_target_": f"{__name__}.Counting"}
    assert "what it saw in training" in str(why_not_stacked(BuiltRun.of(config)))


def _draws(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("mask", [None, (5, 5), (1, 1, 5, 5), (2, 1, 5, 5), (3, 2, 1, 5, 5)])
def test_fused_attention_of_several_seeds_is_that_of_each(mask: tuple[int, ...] | None) -> None:
    q, k, v = (_draws(3, 2, 4, 5, 8).add(add).requires_grad_() for add in range(3))
    seen = None if mask is None else (_draws(*mask) > -0.5) | torch.eye(5, dtype=torch.bool)
    dims = 0 if mask is not None and len(mask) == 5 else None
    with FoldedSeeds():
        found = vmap(lambda q, k, v, seen: scaled_dot_product_attention(q, k, v, seen), (0, 0, 0, dims))(q, k, v, seen)
    each = torch.stack(
        [
            scaled_dot_product_attention(q[s], k[s], v[s], seen if dims is None or seen is None else seen[s])
            for s in range(3)
        ]
    )
    torch.testing.assert_close(found, each)
    weights = _draws(*each.shape)
    wanted = torch.autograd.grad((each * weights).sum(), (q, k, v))
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), (q, k, v)), wanted)


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_sparse_attention_of_several_seeds_is_that_of_each(sinks: bool, padded: bool) -> None:
    S, B, H, T = 3, 2, 4, 16
    q, k, v = (_draws(S, B, H, T, 8).add(add).requires_grad_() for add in range(3))
    logits = _draws(S, H).requires_grad_() if sinks else None
    padding = torch.arange(T).expand(S, B, T) >= torch.arange(T - S, T)[:, None, None] if padded else None
    dims = (0, 0, 0, 0 if sinks else None, 0 if padded else None)

    def attend(q: Tensor, k: Tensor, v: Tensor, logits: Tensor | None, padding: Tensor | None) -> Tensor:
        local = Local(back=4, ahead=0)
        return sparse_attention(q, k, v, local=local, sinks=logits, key_padding_mask=padding, own_if_alone=True)

    found = vmap(attend, dims)(q, k, v, logits, padding)
    each = torch.stack(
        [
            attend(q[s], k[s], v[s], None if logits is None else logits[s], None if padding is None else padding[s])
            for s in range(S)
        ]
    )
    torch.testing.assert_close(found, each)
    learned = [x for x in (q, k, v, logits) if x is not None]
    weights = _draws(*each.shape)
    wanted = torch.autograd.grad((each * weights).sum(), learned)
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), learned), wanted)


def test_a_model_of_modules_only_needs_no_hooks(tiny_config: TinyConfig) -> None:
    """What is tried leaves nothing behind: neither generators nor hooks."""
    before = torch.get_rng_state()
    built = BuiltRun.of(tiny_config())
    why_not_stacked(built)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(isinstance(module, nn.Dropout) and module.p for module in built.build_model().modules())
