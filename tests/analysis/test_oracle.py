"""What is known of a task stands beside what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablab.analysis.comparison import compare
from ablab.results.collect import collect


def test_the_comparison_names_what_theory_gives(
    tiny_config: Callable[..., dict[str, Any]], run: Callable[..., Any], tmp_path: Path
) -> None:
    for index, attention in enumerate(("full", "windowed")):
        config = tiny_config("task=parity", "task.seq_len=16", f"attention={attention}")
        run(config | {"index": index}, tmp_path / attention)
    found = compare(collect([tmp_path]))
    assert found.metrics == {"parity": "val_accuracy"}
    assert "val_accuracy by theory: chance 0.5, ceiling 1." in found.notes
    assert not any("by theory" in note for note in compare(collect([tmp_path]), metric="val_loss").notes)
