"""What one module draws moves no other's: masks are a function of the pass and of the module's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ablab.model.attention.full import FullAttention
from ablab.model.draws import _draws, draw_apart, key_draws, seed_pass
from ablab.model.residual.base import Residual
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
PASS = 1, 7, 0, 0  # seed, step, batch, rank


def keyed(model: Transformer) -> Transformer:
    key_draws(model)
    return model.train()


def trained(model: Transformer, inputs: Any, targets: Tensor, key: tuple[int, ...] = PASS) -> list[Tensor]:
    """Logits and gradients of a pass."""
    model.zero_grad()
    model.resample(0)
    seed_pass(*key)
    logits = model(inputs, targets=targets)
    (logits.float().square().sum() + model.penalty()).backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def idle_draws(model: nn.Module) -> int:
    """Let every module draw a number that nobody uses, except what a mask is drawn in; how many do."""
    own = [name for name, module in model.named_modules() if _draws(module)]
    places = [
        module
        for name, module in model.named_modules()
        if not isinstance(module, nn.Dropout) and not any(name == each or name.startswith(f"{each}.") for each in own)
    ]
    for module in places:
        module.register_forward_pre_hook(_draw)
    return len(places)


def _draw(module: nn.Module, args: Any) -> None:
    torch.rand(3)


def with_dropout(build: Build, load_option: Any, axis: str, option: str) -> Transformer:
    changes: dict[str, Any] = {axis: load_option(axis, option)}
    if axis == "attention" and option != "pattern":
        changes = {axis: load_option(axis, option, dropout=0.3)}
    elif axis != "attention":
        changes["attention"] = load_option("attention", "full", dropout=0.3, dropout_on="weights")
    return build(dropout=0.2, **changes)


def test_an_unused_draw_in_any_component_changes_nothing(
    any_option: tuple[str, str], build: Build, load_option: Any, tokens: Callable[..., Tensor]
) -> None:
    ids = tokens(2, 24)
    plain, drawing = (keyed(with_dropout(build, load_option, *any_option)) for _ in range(2))
    assert idle_draws(drawing) > 5
    seed_pass(*PASS)
    state = torch.get_rng_state()
    expected = trained(plain, ids, ids)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn but what is keyed
    assert same(trained(drawing, ids, ids), expected)
    assert not same(trained(plain, ids, ids, (1, 8, 0, 0)), expected)


@pytest.mark.parametrize("weights", ["own", "shared"])
@pytest.mark.parametrize("fusion", ["early", "late", "hybrid", "cross", "bottleneck"])
def test_modalities_too(
    fusion: str, weights: str, build_modal: Build, load_option: Any, modal_inputs: Callable[..., dict[str, Tensor]]
) -> None:
    towers = {} if fusion in ("early", "cross") else {"weights": weights}
    make = partial(build_modal, load_option("modal_fusion", fusion, **towers), dropout=0.2)
    inputs, targets = modal_inputs(3), torch.zeros(3, 1, dtype=torch.long)
    plain, drawing = keyed(make()), keyed(make())
    assert idle_draws(drawing) > 5
    assert same(trained(drawing, inputs, targets), trained(plain, inputs, targets))


def masks(model: Transformer, ids: Tensor, key: tuple[int, ...] = PASS) -> dict[str, Tensor]:
    """What each dropout of the model lets through."""
    found: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        found[name] = output != 0

    handles = [
        module.register_forward_hook(partial(watch, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout)
    ]
    trained(model, ids, ids, key)
    for handle in handles:
        handle.remove()
    return found


def test_modules_passes_and_ranks_have_masks_of_their_own(build: Build, tokens: Callable[..., Tensor]) -> None:
    model, ids = keyed(build(dropout=0.5)), tokens(2, 24)
    others = [(2, 7, 0, 0), (1, 8, 0, 0), (1, 7, 1, 0), (1, 7, 0, 1)]
    drawn = [mask for key in (PASS, *others) for mask in masks(model, ids, key).values()]
    assert len(drawn) == 5 * 5
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) == len(drawn)
    share = torch.stack(drawn).float().mean()
    assert 0.45 < share < 0.55


class Ours(Residual):
    """Somebody's own residual, which draws."""

    def forward(self, x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        torch.rand(2)
        return x + part(x)


def test_what_somebody_puts_around_or_inside_moves_no_mask(build: Build, tokens: Callable[..., Tensor]) -> None:
    ids = tokens(2, 24)
    expected = masks(keyed(build(dropout=0.5)), ids)
    for changes in ({"residual": Ours}, {"attention": "lsh"}, {"feed_forward": "moe"}):
        found = masks(keyed(build(dropout=0.5, **changes)), ids)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], mask) for name, mask in expected.items())


class Own(nn.Module):
    """A component with one dropout that it uses twice, and a draw by no module at all."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.drawn: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.drawn = [self.drop(torch.ones(50)), self.drop(torch.ones(50)), torch.rand(50)]
        return x.relu()


def test_a_component_of_ones_own_is_keyed_as_a_whole(build: Build, tokens: Callable[..., Tensor]) -> None:
    seen = []
    for axis in ("full", "lsh"):
        model = keyed(build(activation=Own, attention=axis, dropout=0.2))
        trained(model, tokens(2, 12), tokens(2, 12))
        owns = [module for module in model.modules() if isinstance(module, Own)]
        seen.append([tensor for own in owns for tensor in own.drawn])
    assert same(*seen)
    assert len({tuple(tensor.tolist()) for tensor in seen[0]}) == 6


def test_what_is_computed_again_drops_the_same(build: Build, load_option: Any, tokens: Callable[..., Tensor]) -> None:
    ids = tokens(2, 24)

    def made() -> Transformer:
        dropping = load_option("attention", "full", dropout=0.3, dropout_on="weights")
        return keyed(build(dropout=0.2, attention=dropping))

    again = made()
    for block in again.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    assert same(trained(again, ids, ids), trained(made(), ids, ids))


def test_a_rank_may_draw_its_own_and_leaves_what_all_draw(make_spec: Callable[..., Any]) -> None:
    q = torch.ones(1, 2, 16, 8)
    dropped, after = [], []
    for rank in (0, 1, 0):
        core = FullAttention(make_spec(), dropout=0.5)
        draw_apart(core, "core")
        draw_apart(core, "heads", rank)
        seed_pass(*PASS)
        dropped.append(core(q, q, q) == 0)
        after.append(torch.rand(3))
        assert not (core.eval()(q, q, q) == 0).any()
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.equal(dropped[0], dropped[2])
    assert torch.equal(after[0], after[1])


def test_an_error_within_leaves_no_trace(make_spec: Callable[..., Any]) -> None:
    core = FullAttention(make_spec(), dropout=0.5)
    draw_apart(core, "core")
    with pytest.raises(AttributeError):
        core(None, None, None)
    seed_pass(*PASS)
    state = torch.get_rng_state()
    core.eval()(*[torch.ones(1, 2, 4, 8)] * 3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the tracer's own
@pytest.mark.usefixtures("_fresh_compiler")
def test_one_graph_is_made_of_a_model_with_dropout(build: Build, tokens: Callable[..., Tensor]) -> None:
    ids, model = tokens(2, 12), keyed(build(dropout=0.2))
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    drawn = []
    for step in (0, 0, 1):
        seed_pass(0, step)
        drawn.append(compiled(ids))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
