"""What a run's Trainer leaves to others."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablab.results.record import Record
from ablab.training.module import TrainingModule


@pytest.mark.parametrize("moment", ["training_step", "validation_step", "test_step"])
def test_lightning_does_not_handle_sigterm(
    moment: str,
    tiny_config: Callable[..., dict[str, Any]],
    run: Callable[[dict[str, Any], Path], Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its handler sends to the other processes from within, each at a moment of its own."""
    seen: list[Any] = []
    original = getattr(TrainingModule, moment)

    def watched(self: TrainingModule, *args: Any) -> Any:
        seen.append(signal.getsignal(signal.SIGTERM))
        return original(self, *args)

    monkeypatch.setattr(TrainingModule, moment, watched)
    before = signal.signal(signal.SIGTERM, own)
    try:
        assert run(tiny_config("task.test_fraction=0.1"), tmp_path).status == "ok"
        assert seen
        assert set(seen) == {own}
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def own(*_: Any) -> None:
    """A handler of those who started the process."""
