"""What the tests of this folder share."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True)
def _no_full_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench collects garbage often; among all that PyTorch has made, that is most of a tiny run's time."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
