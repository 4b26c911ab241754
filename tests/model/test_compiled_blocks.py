"""Blocks by `torch.compile`, as `trainer.compile` has them in training: one graph each, the same as not compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import zip_longest
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ablab.config import conf_folder
from ablab.config.run_config import Compile
from ablab.errors import UserError
from ablab.model.block import Block
from ablab.model.draws import key_draws, seed_pass
from ablab.model.spec import ClashError
from ablab.model.transformer import Transformer
from ablab.training.compile import compile_blocks, compile_breaks, try_compiled

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # of the tracer's own
    pytest.mark.usefixtures("_fresh_compiler"),
]
Build = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
AXES = ("norm", "attention", "feed_forward", "activation", "residual", "position", "layer_fusion", "objective")
MENU = {axis: sorted(path.stem for path in (conf_folder() / axis).glob("*.yaml")) for axis in AXES}
EXPERTS = {"moe", "hash_moe", "pattern"}  # whose blocks are several graphs
# Experts come in the last rows, with attention that is quickly traced, which is done anew for each of their graphs.
LATE = len(MENU["attention"]) - len(MENU["feed_forward"])
COLUMNS = {axis: ([None] * LATE if axis == "feed_forward" else []) + MENU[axis] for axis in AXES}
ROWS = [
    {axis: option for axis, option in zip(AXES, row, strict=True) if option} for row in zip_longest(*COLUMNS.values())
]


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Graphs:
    """A backend of `torch.compile` that compiles nothing, and remembers what it was given."""

    def __init__(self) -> None:
        self.made: list[GraphModule] = []

    def __call__(self, graph: GraphModule, inputs: Any) -> Callable[..., Any]:
        self.made.append(graph)
        return graph.forward


def trained(model: Transformer, inputs: Any, targets: Tensor, key: tuple[int, ...] = (1, 7, 0, 0)) -> list[Tensor]:
    """Logits and gradients of a pass in training."""
    model.zero_grad()
    model.train().resample(0)
    seed_pass(*key)
    logits = model(inputs, targets=targets)
    (logits.float().square().sum() + model.penalty()).backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def compared(make: Callable[[], Transformer], inputs: Any, targets: Tensor) -> Graphs:
    """Compile the blocks of one of two models, and hold the two to each other, dropout masks included."""
    graphs, (plain, compiled) = Graphs(), (make(), make())
    for each in (plain, compiled):
        key_draws(each)
    compile_blocks(compiled, True, graphs)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for own, its in zip(trained(compiled, inputs, targets), trained(plain, inputs, targets), strict=True):
        torch.testing.assert_close(own, its, rtol=1e-5, atol=1e-6)
    return graphs


def doubled(build: Build, **changes: Any) -> Transformer:
    """In float64, where what a compiler may add up in another order cannot be seen."""
    return build(**changes).double()


def apart(rows: list[dict[str, str]], build: Build) -> Iterator[dict[str, str]]:
    """Yield the rows, options that do not work with another one of theirs in rows of their own."""
    for row in rows:  # which grows
        while (clash := clash_of(row, build)) is not None:
            out = clash.axis if clash.axis in row else clash.other
            rows.append({out: row.pop(out)})
        yield row


def clash_of(row: dict[str, str], build: Build) -> ClashError | None:
    try:
        with torch.device("meta"):
            build(**row)
    except ClashError as clash:
        return clash
    return None


def test_every_option_is_one_graph_and_the_same(build: Build, tokens: Tokens) -> None:
    """Each model has an option of every axis, so that few have all of them. Only experts say that they are several."""
    met: set[tuple[str, str]] = set()
    for row in apart([dict(row) for row in ROWS], build):
        with torch.device("meta"):
            blocks = [module for module in build(**row).modules() if isinstance(module, Block)]
        in_parts = row.get("feed_forward") in EXPERTS
        assert any(map(compile_breaks, blocks)) == in_parts, row
        torch.compiler.reset()
        alike = row.get("feed_forward") in EXPERTS - {"pattern"}
        make = partial(doubled, build, **row, dropout=0.2, n_layers=1 if alike else 2)
        try:
            assert compared(make, tokens(2, 24), tokens(2, 24, seed=1)).made
        except Exception as error:
            raise AssertionError(f"{row}: {error}") from error
        met |= set(row.items())
    assert met == {(axis, option) for axis, menu in MENU.items() for option in menu}


@pytest.mark.parametrize("fusion", ["late", "bottleneck", "cross"])
def test_modalities_too(
    fusion: str, build_modal: Build, load_option: Any, modal_inputs: Callable[..., dict[str, Tensor]]
) -> None:
    """Also where one block serves all of them, each with masks of its own."""
    option = load_option("modal_fusion", fusion, **({"weights": "shared"} if fusion == "late" else {}))
    targets = torch.zeros(3, 1, dtype=torch.long)
    assert compared(lambda: build_modal(option, dropout=0.2), modal_inputs(3), targets).made


def test_layers_that_are_alike_share_one_graph(build: Build, tokens: Tokens) -> None:
    graphs, model = Graphs(), build(n_layers=4, attention="windowed", dropout=0.2)
    key_draws(model)
    compile_blocks(model, True, graphs)
    for step in range(3):
        trained(model, tokens(2, 24, seed=step), tokens(2, 24), (0, step, 0, 0))
    assert len(graphs.made) == 1


def test_microbatches_share_a_graph_however_many_they_are(build: Build, tokens: Tokens) -> None:
    graphs, models = Graphs(), [build(activation="dynamic_sparse", padding=0) for _ in range(2)]
    for model in models:
        key_draws(model)
    compile_blocks(models[0], True, graphs)
    for _ in range(2):
        for model in models:
            parts: list[Any] = [block.feed_forward.activation for _, block in model.layers()]
            for part in parts:
                part.begin_microbatches()
            for seed in range(5):
                trained(model, tokens(2, 24, seed=seed), tokens(2, 24))
            for part in parts:
                part.end_microbatches()
    assert len(graphs.made) == 1
    for name, buffer in models[0].named_buffers():
        torch.testing.assert_close(buffer, models[1].get_buffer(name))


def test_what_is_not_trained_is_as_it_is_written(build: Build, tokens: Tokens) -> None:
    """Evaluation, generation, and copies that are asked for something."""
    graphs, model = Graphs(), build()
    compile_blocks(model, True, graphs)
    model.eval()(tokens(2, 24))
    model.generate(tokens(1, 4), max_new_tokens=3)
    trained(copy.deepcopy(model), tokens(2, 24), tokens(2, 24))
    assert not graphs.made
    trained(model, tokens(2, 24), tokens(2, 24))
    assert len(graphs.made) == 1


def test_a_hook_that_comes_later_is_called(build: Build, tokens: Tokens) -> None:
    model, seen = build(), []
    compile_blocks(model, True, Graphs())
    trained(model, tokens(2, 24), tokens(2, 24))
    block: Any = model.blocks[1]
    block.feed_forward.register_forward_hook(lambda *_: seen.append(1))
    trained(model, tokens(2, 24), tokens(2, 24))
    assert seen == [1]


def test_masks_are_common_random_numbers(build: Build, load_option: Any, tokens: Tokens) -> None:
    """Steps, batches and processes have masks of their own, and what one module draws moves no other's."""
    ids = tokens(2, 24)
    keys = [(1, 7, 0, 0), (1, 8, 0, 0), (1, 7, 1, 0), (1, 7, 0, 1)]
    drawing = load_option("attention", "lsh", dropout=0.3)
    models = [build(dropout=0.5, n_layers=1), build(dropout=0.5, n_layers=1, attention=drawing)]
    masks: list[tuple[bool, ...]] = []
    for model in models:
        found: list[Tensor] = []  # which is empty before each pass: else each would be compiled anew
        key_draws(model)
        compile_blocks(model, True, Graphs())
        last: Any = model.blocks[-1]
        drop = last.feed_forward_dropout
        drop.register_forward_hook(lambda module, args, out, found=found: found.append((out == 0).detach()))
        for key in keys:
            trained(model, ids, ids, key)
            masks.append(tuple(found.pop().flatten().tolist()))
            assert not found
    assert len(set(masks[:4])) == 4
    assert masks[:4] == masks[4:]


class Draws(nn.Module):
    """A component that draws for itself."""

    def __init__(self, spec: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand_like(x)


class Breaks(Draws):
    """A component that no graph can hold, and does not say so."""

    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x.relu()


class SaysSo(Breaks):
    breaks_graph = "it looks at each number"


def test_what_cannot_be_compiled_is_refused_in_a_line(build: Build, load_option: Any, tokens: Tokens) -> None:
    dropping = load_option("attention", "full", dropout=0.3, dropout_on="weights")
    refused: list[tuple[dict[str, Any], Compile, str]] = [
        ({"attention": dropping}, True, r"attention\.dropout_on=weights does\), .* use attention\.dropout_on=output"),
        ({"activation": Draws}, True, "draws from PyTorch's own generators"),
        ({"activation": Breaks}, True, r"^trainer\.compile=true: torch\.compile failed: .*graph break.*compile=false$"),
        ({"dropout": 0.2}, "reduce-overhead", "a CUDA graph would drop the same in every step"),
    ]
    batch = tokens(2, 12), tokens(2, 12)
    for changes, asked, line in refused:
        with pytest.raises(UserError, match=line):
            try_compiled(build(**changes, n_layers=1), batch, asked)
    for works in ({}, {"dropout": 0.2}, {"activation": SaysSo}):
        try_compiled(build(**works, n_layers=1), batch, True)
