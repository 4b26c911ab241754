"""When a fusion of layers that is said to adapt is called a static one."""

from __future__ import annotations

import pytest
from said import notes_of
from synthetic import runs_of, study

from ablab.analysis.comparison import compare

LOSSES = [1.00, 1.02, 0.97]


def said(variations: list[float | None]) -> list[str]:
    records = study({"last": LOSSES, "adaptive": [loss - 0.1 for loss in LOSSES]}, axis="layer_fusion")
    for record, variation in zip(records, [None, None, None, *variations], strict=True):
        if variation is not None:
            record.mechanism = {"layer_fusion/weight_variation": variation}
    (item,) = compare(runs_of(records)).items
    return [note for note in notes_of(item) if note.startswith("INPUT-INDEPENDENT")]


def test_weights_that_never_vary_are_said_to() -> None:
    assert said([0.0002, 0.0004, 0.0001]) == [
        "INPUT-INDEPENDENT  adaptive: the weights of the layers vary by 0.0004 between inputs, less than 0.001; as "
        "trained, this is a static fusion."
    ]


@pytest.mark.parametrize("variations", [[0.0002, 0.02, 0.0001], [None, None, None]])
def test_one_run_in_which_they_vary_is_enough_and_no_figure_is_no_finding(variations: list[float | None]) -> None:
    assert said(variations) == []
