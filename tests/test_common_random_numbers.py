"""Common random numbers: swapping an option moves no other parameter's initial value, and no batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.config import AXES, RunConfig, conf_folder
from ablab.tasks.base import Batch
from ablab.tasks.text import Text
from ablab.training.build import build_task
from ablab.training.build_model import build_model

TinyConfig = Callable[..., RunConfig]
OPTIONS = {axis: sorted(path.stem for path in (conf_folder() / axis).glob("*.yaml")) for axis in AXES}


def parameters(config: RunConfig) -> dict[tuple[str, torch.Size], Tensor]:
    model = build_model(config, build_task(config))
    return {(name, p.shape): p.detach() for name, p in model.named_parameters()}


def batches(config: RunConfig, count: int = 10) -> list[Batch]:
    return list(islice(iter(build_task(config).train_dataloader()), count))


def same(one: list[Batch], other: list[Batch]) -> bool:
    flat = [[tensor for batch in part for tensor in batch] for part in (one, other)]
    return all(torch.equal(a, b) for a, b in zip(*flat, strict=True))


# Those that a model knows of; the others come together, an option of each at a time. A parametrisation multiplies what
# is drawn: `tests/model/test_parametrisation.py` holds it to that.
SEEN = [name for name, axis in AXES.items() if axis.caller != "run" or name in ("task", "model")]
APART = {axis: options for axis, options in OPTIONS.items() if axis not in (*SEEN, "parametrisation")}
TOGETHER = [
    [f"{axis}={options[number]}" for axis, options in APART.items() if number < len(options)]
    for number in range(max(map(len, APART.values())))
]
ALL_TOGETHER = [
    [f"{axis}={options[number]}" for axis, options in OPTIONS.items() if axis != "task" and number < len(options)]
    for number in range(max(len(options) for axis, options in OPTIONS.items() if axis != "task"))
]


def assert_shared(drawn: list[dict[tuple[str, torch.Size], Tensor]]) -> None:
    for one, other in combinations(drawn, 2):
        for key in one.keys() & other.keys():
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("axis", SEEN)
def test_options_share_their_initial_values(axis: str, tiny_config: TinyConfig) -> None:
    task = ["task=spoken_arithmetic"] if axis == "modal_fusion" else []  # one modality leaves nothing to fuse
    long = [] if axis in ("task", "modal_fusion") else ["task.seq_len=64"]  # for as many keys as indexers keep
    words = ["model.n_layers=2", *task, *long]
    drawn = [parameters(tiny_config(f"{axis}={option}", *words)) for option in OPTIONS[axis]]
    shared = [one.keys() & other.keys() for one, other in combinations(drawn, 2)]
    assert all(shared) or axis == "model"  # models of other sizes have no shape in common
    assert_shared(drawn)


def test_what_says_how_a_model_is_trained_leaves_its_initial_values(tiny_config: TinyConfig) -> None:
    drawn = [parameters(tiny_config(*words)) for words in ([], *TOGETHER)]
    assert all(each.keys() == drawn[0].keys() for each in drawn)
    assert_shared(drawn)


def test_options_share_their_batches(tiny_config: TinyConfig) -> None:
    """Of any axis but the task: another one is another text."""
    usual = batches(tiny_config())
    assert all(same(usual, batches(tiny_config(*words))) for words in ALL_TOGETHER)


def test_what_trains_is_what_the_task_serves(
    tiny_config: TinyConfig, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where training takes several batches at once, and where components draw at random while it does."""
    seen: list[Tensor] = []

    def watched(self: Text, logits: Tensor, targets: Tensor) -> Tensor:
        # Before it trains the model is asked for its function, in double precision.
        if logits.requires_grad and not logits.is_meta and logits.dtype == torch.float32:
            seen.append(targets)
        return original(self, logits, targets)

    original = Text.loss
    monkeypatch.setattr(Text, "loss", watched)
    for number, overrides in enumerate(
        [
            ("trainer.val_check_interval=1",),
            ("trainer.val_check_interval=6", "trainer.log_every_n_steps=6"),
            ("attention=lsh", "model.dropout=0.5", "trainer.val_check_interval=4", "trainer.log_every_n_steps=2"),
        ]
    ):
        seen.clear()
        config = tiny_config("trainer.max_steps=12", *overrides)
        assert run(config, tmp_path / str(number)).status == "ok"
        assert same([(targets, targets) for targets in seen], [(y, y) for _, y in batches(config, 12)])


def test_a_seed_changes_what_is_drawn_and_every_batch(tiny_config: TinyConfig) -> None:
    first, second = tiny_config("seed=0"), tiny_config("seed=1")
    mine, others = parameters(first), parameters(second)
    assert mine.keys() == others.keys()
    for (name, shape), value in mine.items():
        if len(shape) > 1:
            assert not torch.equal(value, others[name, shape]), name
    pairs: Iterator[tuple[Any, Any]] = zip(batches(first), batches(second), strict=True)
    assert not any(torch.equal(one[0], other[0]) for one, other in pairs)
