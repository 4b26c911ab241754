"""Every option in bfloat16, and traced by `torch.compile`: in one graph, or not for a reason that is known.

What attentions do by themselves is in `attention/contract/`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.config import conf_folder
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
AXES = ("norm", "attention", "feed_forward", "activation", "residual", "position", "layer_fusion", "objective")
# How many tokens an expert got is data, which a graph cannot be cut by where there is a product for each.
BROKEN = {"moe", "hash_moe", "pattern"}
MENU = {axis: sorted(path.stem for path in (conf_folder() / axis).glob("*.yaml")) for axis in AXES}
GRAPHS = {axis: [option for option in MENU[axis] if option not in BROKEN] for axis in AXES if axis != "attention"}
ROWS = [
    dict(filter(None, row))
    for row in zip_longest(
        *([(axis, option) for option in options] for axis, options in GRAPHS.items() if axis != "residual"),
        # At the end: residuals of several streams do not work with sums over layers, which are in the first rows.
        [None] * 4 + [("residual", option) for option in reversed(GRAPHS["residual"])],
    )
]


def step(model: Transformer, ids: Tensor, called: Callable[..., Tensor] | None = None) -> list[Tensor]:
    """Logits, what is added to the loss, and the gradients of both.

    Args:
        called: the model's pass in another form; None: the model.
    """
    logits = (model if called is None else called)(ids, targets=ids)
    added = model.penalty()
    total = logits.float().square().mean() + added
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    return [logits, added, *gradients]


@pytest.mark.parametrize("axis", AXES)
def test_half_precision_is_near_single(axis: str, build: Build, tokens: Tokens) -> None:
    ids = tokens(2, 40)
    for option in MENU[axis]:
        model = build(**{axis: option})
        model.resample(0)
        exact = step(model, ids)
        with torch.autocast("cpu", torch.bfloat16):
            half = step(model, ids)
        assert all(each.isfinite().all() for each in half), option
        assert (half[0].float() - exact[0]).norm() < 0.05 * exact[0].norm(), option
        torch.testing.assert_close(half[1], exact[1], rtol=0.05, atol=1e-3)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the tracer's own
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["activation"])
def test_what_is_compiled_in_one_graph_is_the_same(row: dict[str, str], build: Build, tokens: Tokens) -> None:
    """Each model has an option of every axis, so that few have all of them."""
    assert_the_same_compiled(lambda: build(**row), tokens(2, 12), fullgraph=True)


def test_every_option_is_compiled() -> None:
    met = {(axis, option) for row in ROWS for axis, option in row.items()}
    assert met == {(axis, option) for axis, menu in GRAPHS.items() for option in menu}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the tracer's own
def test_what_is_compiled_in_several_graphs_is_the_same(build: Build, load_option: Any, tokens: Tokens) -> None:
    """Of one model, which has all options whose graphs are broken."""
    broken = load_option("feed_forward", "pattern", first=[], layers=sorted(BROKEN - {"pattern"}))
    assert_the_same_compiled(lambda: build(feed_forward=broken), tokens(2, 12), fullgraph=False)


def assert_the_same_compiled(make: Callable[[], Transformer], ids: Tensor, fullgraph: bool) -> None:
    model, plain = make(), make()  # some change with every pass
    for each in (model, plain):
        each.resample(0)
    expected = step(plain, ids)
    torch.compiler.reset()
    made: Any = torch.compile(model, backend="eager", fullgraph=fullgraph)
    for own, its in zip(step(model, ids, made), expected, strict=True):
        torch.testing.assert_close(own, its, rtol=1e-5, atol=1e-6)
