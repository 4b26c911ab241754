"""What options of a model cannot be, or cannot be together, is said before a run begins, in one line with the keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.study.planning.preflight import Preflight

TinyConfig = Callable[..., RunConfig]

VALUES = [
    ("feed_forward=moe feed_forward.top_k=9", r"feed_forward\.top_k=9 is more than .* feed_forward\.n_experts=8"),
    ("feed_forward=hash_moe feed_forward.top_k=9", r"feed_forward\.top_k=9 is more than .* feed_forward\.n_experts=8"),
    ("feed_forward=moe feed_forward.n_experts=0", r"feed_forward\.n_experts must be at least 1, got 0"),
    ("feed_forward=moe feed_forward.scale=0", r"feed_forward\.scale must be above 0, got 0\.0"),
    ("feed_forward=moe feed_forward.score=tanh", r"feed_forward\.score='tanh': must be one of softmax, sigmoid"),
    (
        "feed_forward=pattern feed_forward.layers=[{moe:{top_k:9}}] model.n_layers=2",
        r"feed_forward\.top_k=9 is more than",
    ),
    ("residual=hyper residual.streams=0", r"residual\.streams must be at least 1, got 0"),
    ("residual=mhc residual.streams=0", r"residual\.streams must be at least 1, got 0"),
    ("residual=mhc residual.streams=1", r"residual\.streams=1 leaves nothing to mix"),
    ("residual=value model.n_layers=1", r"residual: model\.n_layers=1 leaves no layer"),
    ("attention=pattern model.n_layers=3", r"attention\.layers has 2 layers, and model\.n_layers=3 leaves 3"),
    ("feed_forward=pattern model.n_layers=1", r"feed_forward\.first has 1 layers, .* model\.n_layers=1"),
    ("attention=dsa attention.keys=33", r"attention\.keys=33 is more than the 32 tokens .*task\.seq_len.*at most 32"),
    ("attention=csa attention.keys=9", r"attention\.keys=9 is more than the 8 entries .*attention\.block=4.*at most 8"),
    (
        "attention=pattern attention.layers=[{dsa:{keys:99}}] model.n_layers=2",
        r"attention\.keys=99 is more than the 32 tokens",
    ),
    ("objective=multi_token objective.depth=32", r"objective\.depth=32 reaches beyond a window of 32 tokens"),
    ("objective=next_token objective.z_loss=-1", r"objective\.z_loss must be at least 0, got -1\.0"),
    ("norm=dyt norm.initial_alpha=0", r"norm\.initial_alpha must be above 0, got 0\.0"),
    ("norm=rms norm.placement=around", r"norm\.placement='around': must be one of pre, post, sandwich"),
    ("attention=gated_delta attention.chunk=0", r"attention: chunk must be at least 1, got 0"),
    ("attention=mamba2 attention.groups=3", r"attention: groups=3 does not divide model\.n_heads=2"),
    ("optimizer=soap optimizer.frequency=0", r"optimizer: frequency=0 must be at least 1"),
    ("optimizer=normuon optimizer.beta2=1", r"optimizer: beta2=1\.0 must be"),
]

# Two options that do not work together, and whatever it takes to have both.
PAIRS = [
    ("residual=hyper", "norm=layer", "norm.placement=post"),
    ("residual=mhc", "norm=rms", "norm.placement=post"),
    ("residual=mhc", "layer_fusion=dense", "model.n_layers=2"),
    *(("residual=value", f"attention={each}", "model.n_layers=2") for each in ("nsa", "csa", "hca", "gated_delta")),
    ("objective=multi_token", "residual=value", "model.n_layers=2"),
    ("objective=multi_token", "task=classification"),
    ("feed_forward=hash_moe", "task=spoken_arithmetic"),
    *(("position=alibi", f"attention={each}") for each in ("dsa", "hca", "gated_delta", "mamba2")),
    *(("strategy=tensor", option) for option in ("attention=dsa", "feed_forward=moe", "attention=mamba2")),
    ("strategy=tensor", "residual=value", "model.n_layers=2"),
    ("strategy=pipeline", "residual=value", "model.n_layers=2"),
    ("strategy=pipeline", "objective=multi_token", "model.n_layers=2"),
    ("strategy=pipeline", "attention=dsa", "model.n_layers=2"),
    ("strategy=pipeline", "feed_forward=moe", "model.n_layers=2", "feed_forward.balance_weight=0.1"),
    ("strategy=fsdp", "attention=dynamic"),
    *(("strategy=fsdp", f"optimizer={each}") for each in ("soap", "normuon", "cautious_adamw")),
]
SHORT = ("attention.keys=4",)  # what indexers keep of sequences as short as these


@pytest.mark.parametrize(("words", "line"), VALUES, ids=[words for words, _ in VALUES])
def test_values_that_cannot_be(tiny_config: TinyConfig, words: str, line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}"):
        Preflight().check(tiny_config(*words.split()))


@pytest.mark.parametrize("words", PAIRS, ids=[" ".join(words[:2]) for words in PAIRS])
def test_options_that_cannot_be_together(tiny_config: TinyConfig, words: tuple[str, ...]) -> None:
    one, other, *more = words
    keeps = [each for each in ("attention=dsa", "attention=csa") if each in words]
    with pytest.raises(UserError) as caught:
        Preflight().check(tiny_config(one, other, *more, *(SHORT if keeps else ())))
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith((f"{one} does not work with {other}: ", f"{other} does not work with {one}: ")), said
    assert said.endswith("; change one of the two")
