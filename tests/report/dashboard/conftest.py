"""The study that most of these tests show."""

from __future__ import annotations

import pytest
from shown import VALUES
from synthetic import study

from ablab.results.record import Record


@pytest.fixture
def records() -> list[Record]:
    """Three variants with four seeds; one run diverged."""
    return study(VALUES)
