"""What is known of a task stands beside what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from said import notes_of
from synthetic import record, runs_of

from ablab.analysis.comparison import compare
from ablab.config import RunConfig
from ablab.results.collect import collect
from ablab.results.record import Metric, Record

WINDOWS = {f"window_{2**power}": power / 10 for power in range(1, 9)}


def finished(seed: int, accuracy: float, option: str, oracle: dict[str, float], **attention: Any) -> Record:
    return record(
        seed,
        axes={"attention": option},
        primary=Metric(name="val_accuracy", split="val", direction="max"),
        metrics={"val_accuracy": accuracy},
        settings={"attention": attention},
        mechanism={"attention/keys_visited": 7.0},
        oracle=oracle,
    )


def test_the_comparison_names_what_theory_gives(
    tiny_config: Callable[..., RunConfig], run: Callable[..., Any], tmp_path: Path
) -> None:
    for index, attention in enumerate(("full", "windowed")):
        config = tiny_config("task=parity", "task.seq_len=16", f"attention={attention}")
        run(config, tmp_path / attention, index=index)
    found = compare(collect([tmp_path]))
    assert found.metrics == {"parity": "val_accuracy"}
    assert "val_accuracy by theory: chance 0.5, ceiling 1." in notes_of(found)
    assert not any("by theory" in note for note in notes_of(compare(collect([tmp_path]), metric="val_loss")))


def test_of_many_values_the_line_names_what_the_variants_meet() -> None:
    oracle = {"majority": 0.25, "with=text": 0.3, **WINDOWS, "ceiling": 1.0, "chance": 0.125}
    runs = runs_of(
        [
            finished(seed, 0.2 + seed / 10, option, oracle, **attention)
            for option, attention in {"full": {}, "windowed": {"window": 8}, "selected": {"window": 4}}.items()
            for seed in (1, 2, 3)
        ]
    )
    found = compare(runs)
    # A query of `selected` visits 7 keys, more than its window of 4 holds.
    assert notes_of(found) == (
        "val_accuracy by theory: chance 0.125, ceiling 1, majority 0.25, window_8 0.3, with=text 0.3.",
    )
    windowed, selected = found.items
    assert notes_of(windowed) == (
        "By theory a window of 8 tokens reaches val_accuracy 0.3 at most in one layer; windowed measured 0.4.",
    )
    assert notes_of(selected) == ()


def test_values_of_random_samples_are_means_over_the_runs() -> None:
    oracles = [{"chance": 0.125, "window_8": value} for value in (0.3, 0.4)]
    records = [finished(seed, 0.2, "windowed", oracle, window=8) for seed, oracle in enumerate(oracles)]
    assert "val_accuracy by theory: chance 0.125, window_8 0.35." in notes_of(compare(runs_of(records)))
    by_layer = [finished(seed, 0.2, "windowed", oracle, window=[2, 8]) for seed, oracle in enumerate(oracles)]
    assert "val_accuracy by theory: chance 0.125, window_8 0.35." in notes_of(compare(runs_of(by_layer)))


@pytest.mark.parametrize(("subsets", "said"), [(8, "part=7 0.875"), (9, "9 subsets from 0 to 1")])
def test_many_subsets_are_summed_up(subsets: int, said: str) -> None:
    oracle = {"chance": 0.125, **{f"part={number}": number / 8 for number in range(subsets)}}
    (line,) = [note for note in notes_of(compare(runs_of([finished(1, 0.2, "full", oracle)]))) if "theory" in note]
    assert line.endswith(f"{said}.")


def test_another_metric_than_the_primary_one_has_no_known_values() -> None:
    runs = runs_of([finished(seed, 0.2, option, WINDOWS, window=8) for option in "ab" for seed in (1, 2, 3)])
    for item in runs.records:
        item.metrics["val_loss"] = 1.0
    found = compare(runs, metric="val_loss")
    assert "theory" not in " ".join([*notes_of(found), *(note for item in found.items for note in notes_of(item))])
