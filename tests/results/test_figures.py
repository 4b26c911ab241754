"""What services are shown of a run's end."""

import math

import pytest
from synthetic import record

from ablab.results.figures import final_figures
from ablab.results.record import Cost

COST = Cost(parameters=7, steps=2, tokens=3, wall_time_s=math.inf, peak_memory_method="x", flops_uncounted=["sin"])


def test_a_run_that_ended_well_has_final_figures_and_costs() -> None:
    one = record(metrics={"val_loss": 1.5, "val_x": math.nan}, mechanism={"activation/zero_share": 0.5}, cost=COST)
    assert final_figures(one) == {
        "final/val_loss": 1.5,
        "final/activation/zero_share": 0.5,
        "cost/parameters": 7,
        "cost/steps": 2,
        "cost/tokens": 3,
    }


@pytest.mark.parametrize("status", ["diverged", "failed", "interrupted"])
def test_any_other_has_costs_only(status: str) -> None:
    one = record(status=status, reason="boom", metrics={"val_loss": 9.0}, cost=Cost())
    assert final_figures(one) == {"cost/steps": 0, "cost/tokens": 0}
