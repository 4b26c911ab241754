"""The report of a tuned study: its section, and what it leaves out."""

from __future__ import annotations

import pytest
from synthetic import runs_of
from tuned import Points, told, tuned_study

from ablab.report.context import ReportContext
from ablab.report.figures.canvas import Drawing
from ablab.report.html.page import page
from ablab.report.html.sections import tuning

pytestmark = pytest.mark.usefixtures("_plain_figures")

BASE: Points = {1e-3: [1.20, 1.22], 3e-3: [1.00, 1.02], 1e-2: [1.10, 1.12], 1.0: [48.0, 60.0]}
DIFFERENCES = [-0.1, -0.12, -0.09, -0.1, -0.11]


def test_a_tuned_study_has_its_section() -> None:
    shown = page(ReportContext.of(runs_of(tuned_study(DIFFERENCES, told(BASE, 3e-3), told(BASE, 1e-2)))))
    assert 'id="tuning"' in shown
    assert (
        "val_loss over the learning rate in tuning runs: attention=full 1.21 at 0.001, 1.01 at 0.003 (chosen)" in shown
    )
    assert "ONE STEP AWAY" in shown
    assert "The interval holds what choosing adds" in shown


def test_a_study_that_was_not_tuned_or_tells_nothing_of_it_has_none() -> None:
    earlier = {"chosen": 3e-3, "tried": [[1e-3, 1.4], [3e-3, 1.05]]}
    for kept in (None, earlier):
        assert 'id="tuning"' not in page(ReportContext.of(runs_of(tuned_study(DIFFERENCES, kept, kept))))


@pytest.mark.parametrize(("metric", "best"), [("val_loss", 0.1), ("val_accuracy", 0.82)])
def test_the_scale_holds_what_is_best_of_the_metric_that_is_drawn(
    metric: str, best: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever metric decided: of accuracies that a loss has chosen, the highest are in sight, not the lowest."""
    drawn: list[Drawing] = []
    monkeypatch.setattr(tuning, "svg", lambda _, figure, *place: drawn.append(figure))
    kept = told({1e-3: [0.1, 0.1], 3e-3: [0.11, 0.11], 1e-2: [0.12, 0.12], 3e-2: [0.8, 0.8], 0.1: [0.82, 0.82]}, 0.1)
    for point in kept["points"]:
        point["values"]["val_accuracy"] = point["values"]["val_loss"]
    tuning.tuning(ReportContext.of(runs_of(tuned_study(DIFFERENCES, kept, kept)), metric=metric))
    low, high = drawn[0].figure.axes[0].get_ylim()
    assert low < best < high
