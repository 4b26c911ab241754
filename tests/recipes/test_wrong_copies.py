"""Mistakes that were made with these models, or could be: each is found out beside the public model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import public_deepseek as deepseek
import public_models
import pytest
import torch
from public_models import TOLERANCES, Public, compare
from torch import Tensor

from ablab.config import RunConfig
from ablab.export import deepseek as maps
from ablab.export.conversions import Halves, Link
from ablab.model.attention.compressed_core import CompressedCore
from ablab.model.attention.dsa import IndexedAttention
from ablab.model.attention.selection import Candidates
from ablab.model.feed_forward.routing import Router, Routing
from ablab.model.position import Rope
from ablab.model.residual.streams import ManifoldHyperConnections
from ablab.model.residual.streams import Weights as Connection

pytest.importorskip("transformers", reason="the extra `bench` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of a package that is not ours

PUBLIC: dict[str, Public] = {public.recipe: public for public in deepseek.MODELS}
Patch = Callable[[pytest.MonkeyPatch], None]


def biases_that_weigh(patch: pytest.MonkeyPatch) -> None:
    right = Router.forward

    def wrong(self: Router, *args: Tensor) -> Routing:
        routing = right(self, *args)
        gates = (routing.scores + self.bias).gather(-1, routing.chosen)
        return routing._replace(gates=gates / gates.sum(-1, keepdim=True) * self.scale)

    patch.setattr(Router, "forward", wrong)


def a_mix_that_is_never_applied(patch: pytest.MonkeyPatch) -> None:
    right = ManifoldHyperConnections.connection

    def wrong(self: ManifoldHyperConnections, streams: Tensor) -> Connection:
        weights = right(self, streams)
        return weights._replace(mix=torch.eye(self.streams, dtype=streams.dtype).expand(weights.mix.shape))

    patch.setattr(ManifoldHyperConnections, "connection", wrong)


def a_mix_the_other_way_round(patch: pytest.MonkeyPatch) -> None:
    right = ManifoldHyperConnections.connection

    def wrong(self: ManifoldHyperConnections, streams: Tensor) -> Connection:
        weights = right(self, streams)
        return weights._replace(mix=weights.mix.mT)

    patch.setattr(ManifoldHyperConnections, "connection", wrong)


def entries_seen_too_early(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: CompressedCore, positions: Tensor, there: Tensor) -> Tensor:
        return (torch.arange(there.shape[1]) * self.block <= positions[:, None]) & there[:, None]

    patch.setattr(CompressedCore, "allowed", wrong)


def rotations_that_are_left_in_the_values(patch: pytest.MonkeyPatch) -> None:
    right = Rope.turn

    def wrong(self: Rope, x: Tensor, *, stride: int = 1, back: bool = False) -> Tensor:
        return x if back else right(self, x, stride=stride)

    patch.setattr(Rope, "turn", wrong)


def a_choice_that_sees_the_future(patch: pytest.MonkeyPatch) -> None:
    right = IndexedAttention._scored

    def wrong(self: IndexedAttention, *args: Tensor) -> tuple[Candidates, Tensor]:
        candidates, scores = right(self, *args)
        return candidates._replace(allowed=torch.ones_like(scores, dtype=torch.bool)), scores

    patch.setattr(IndexedAttention, "_scored", wrong)


def nothing(patch: pytest.MonkeyPatch) -> None:
    """As it is."""


def halves_for_neighbours(patch: pytest.MonkeyPatch) -> None:
    """Their weights taken for ones that rotate coordinates half apart."""
    patch.setattr(Halves, "to_ours", lambda self, theirs: theirs)


def an_index_of_neighbours(patch: pytest.MonkeyPatch) -> None:
    """The indexer's weights taken for ones that rotate neighbours, as the attention's."""
    right = maps._indexer

    def wrong(layer: int) -> Iterator[Link]:
        rotated = Halves(0, deepseek.SIZE, count=deepseek.ROPE)
        for each in right(layer):
            yield replace(each, conversion=rotated) if each.theirs[0].endswith("wq_b.weight") else each

    patch.setattr(maps, "_indexer", wrong)


@contextmanager
def at_length(length: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(public_models, "LENGTHS", (length,))
        yield


def differs(public: Public, config: RunConfig) -> bool:
    with at_length(48):
        found = compare(public, config, torch.float32)
    return max(found.logits, *found.gradients.values()) > 20 * TOLERANCES[torch.float32]


@pytest.mark.parametrize(
    ("recipe", "mistake"),
    [
        ("deepseek_v2", halves_for_neighbours),
        ("deepseek_v3", nothing),
        ("deepseek_v3", biases_that_weigh),
        ("deepseek_v32", a_choice_that_sees_the_future),
        ("deepseek_v32", an_index_of_neighbours),
        ("deepseek_v4", nothing),
        ("deepseek_v4", a_mix_that_is_never_applied),
        ("deepseek_v4", a_mix_the_other_way_round),
        ("deepseek_v4", entries_seen_too_early),
        ("deepseek_v4", rotations_that_are_left_in_the_values),
    ],
)
def test_mistakes_in_what_is_computed_are_found_out(
    recipe: str, mistake: Patch, tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    public = PUBLIC[recipe]
    mistake(monkeypatch)
    config = tiny_config("model=tiny", f"recipe={recipe}", *public.overrides)
    assert differs(public, config) == (mistake is not nothing)


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("deepseek_v2", {"topk_method": "greedy"}),
        ("deepseek_v3", {"topk_group": 1}),
        ("deepseek_v3", {"norm_topk_prob": False}),
        ("deepseek_v4", {"swiglu_limit": 10.0}),
        ("deepseek_v4", {"hc_sinkhorn_iters": 1}),
        ("deepseek_v4", {"scoring_func": "sigmoid"}),
    ],
)
def test_another_setting_of_theirs_is_found_out(
    recipe: str, settings: dict[str, object], tiny_config: Callable[..., RunConfig]
) -> None:
    public = replace(PUBLIC[recipe], settings={**PUBLIC[recipe].settings, **settings})
    assert differs(public, tiny_config("model=tiny", f"recipe={recipe}", *public.overrides))
