"""What is left out of Lightning's Trainer where something else does its part."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from ablab.config import RunConfig
from ablab.training.build import BuiltRun
from ablab.training.checkpoint_files import Origin
from ablab.training.trainer import build_trainer


def test_lightning_does_not_handle_sigterm(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Its handler sends to the other processes from within, each at a moment of its own."""
    config = tiny_config()
    before = signal.getsignal(signal.SIGTERM)
    trainer = build_trainer(BuiltRun.of(config), tmp_path, [], [], Origin(run="", corpus=""))
    try:
        trainer._signal_connector.register_signal_handlers()
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, before)
