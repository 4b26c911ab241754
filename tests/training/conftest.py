"""One finished run, for the tests that only look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ablab.config import RunConfig
from ablab.results.record import Record
from ablab.results.run_context import RunContext
from ablab.training.begin import prepare_folder
from ablab.training.run import execute


@dataclass(frozen=True)
class Finished:
    config: RunConfig
    folder: Path
    record: Record


@pytest.fixture(scope="session")
def finished(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Seven steps, evaluated after three and six and at the end, with all its costs, a test split and TensorBoard."""
    config = tiny_config(
        "activation=dynamic_sparse",
        "attention=lsh",
        "attention.bucket_size=8",
        "task.test_fraction=0.1",
        "trainer.max_steps=7",
        "trainer.val_check_interval=3",
        "logger=tensorboard",
        "optimizer.lr=0.01",
    )
    folder = tmp_path_factory.mktemp("finished")
    prepare_folder(config, folder)
    return Finished(config, folder, execute(config, folder, RunContext()))


@pytest.fixture
def faulty(tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """faulty("Raises", ...): the config of a run whose activation is that class of `faults`."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def make(name: str, *overrides: str) -> RunConfig:
        return tiny_config(f"activation._target_=faults.{name}", "trainer.max_steps=8", *overrides)

    return make
