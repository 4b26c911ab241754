"""Every option goes on from a checkpoint as if it had never stopped: what it remembers is in there, or follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mixtures import Keep, fit, mixtures
from test_resume import assert_same
from torch import Tensor, nn

from ablab.config import RunConfig
from ablab.model.attention.indexer import IndexLearning
from ablab.model.feed_forward.routing import Router
from ablab.model.objective.multi_token import MultiToken
from ablab.training.build import BuiltRun

TinyConfig = Callable[..., RunConfig]
STOP = 2  # of five steps; warm-ups and other weights begin at the third


def check(config: RunConfig, folder: Path) -> None:
    """Weights, buffers, optimizer, schedule and loss behind the last step are the same to the last bit."""
    built, path = BuiltRun.of(config), folder / f"{len(list(folder.iterdir()))}.ckpt"
    whole = fit(built, Keep(path, STOP))
    assert_same(whole, fit(built, origin=path))


def test_every_option_goes_on_as_if_it_had_never_stopped(tiny_config: TinyConfig, tmp_path: Path) -> None:
    met = set()
    for config in mixtures(tiny_config("trainer.max_steps=5", "model.n_layers=2", "model.dropout=0.1")):
        met |= set(config.axes.items())
        try:
            check(config, tmp_path)
        except AssertionError as error:
            raise AssertionError(f"{config.axes}: {error}") from error
    assert len(met) > 60


def not_kept(self: Router, name: str, tensor: Tensor, persistent: bool = False) -> None:
    nn.Module.register_buffer(self, name, tensor, persistent=False)


def counted(self: IndexLearning, step: int) -> None:
    """By its own count in place of the run's."""
    self.taken = getattr(self, "taken", -1) + 1
    self.warming = self.taken < self.warmup_steps


def counted_weight(self: MultiToken, step: int) -> None:
    self.taken = getattr(self, "taken", -1) + 1
    self.weight = self.weights[self.taken > self.ends_at]


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("feed_forward=moe",), (Router, "register_buffer", not_kept)),
        (("attention=dsa", "attention.keys=4", "attention.warmup_steps=3"), (IndexLearning, "resample", counted)),
        (
            ("objective=multi_token", "objective.weight_end=0.1", "objective.end_share=0.6", "objective.total_steps=5"),
            (MultiToken, "resample", counted_weight),
        ),
    ],
)
def test_what_is_forgotten_is_found(
    words: tuple[str, ...],
    wrong: tuple[type, str, Callable[..., None]],
    tiny_config: TinyConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config("trainer.max_steps=5", *words)
    check(config, tmp_path)
    monkeypatch.setattr(*wrong, raising=False)
    with pytest.raises(AssertionError):
        check(config, tmp_path)
