"""Every option of a model, of the optimizer and of the schedule goes through a run, with others beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from mixtures import AXES, mixtures

from ablab.config import RunConfig, conf_folder
from ablab.results.record import Record


@pytest.mark.slow
def test_a_run_of_every_option_ends_with_finite_figures(
    tiny_config: Callable[..., RunConfig],
    run: Callable[[RunConfig, Path], Record],
    tmp_path: Path,
) -> None:
    met = set()
    base = tiny_config("trainer.max_steps=2", "model.n_layers=2")
    for number, config in enumerate(mixtures(base)):
        record = run(config, tmp_path / str(number))
        assert (record.status, record.reason) == ("ok", None), config.axes
        assert record.axes == config.axes
        assert record.cost.steps == 2
        assert "val_loss" in record.metrics
        figures = record.metrics | record.mechanism
        assert all(map(math.isfinite, figures.values())), (config.axes, figures)
        met |= set(config.axes.items())
    assert {(axis, path.stem) for axis in AXES for path in (conf_folder() / axis).glob("*.yaml")} <= met
