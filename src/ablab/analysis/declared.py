"""Whether the comparison that a study declares can be made of the runs that it plans, asked before it is paid for."""

from __future__ import annotations

from ablab.analysis.baseline import choose_baselines
from ablab.analysis.margin import check_margin
from ablab.analysis.metrics import check_last, choose_metric
from ablab.config import ComparisonConfig
from ablab.config.axes import AXES
from ablab.config.nearest import nearest
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.evaluation import AT
from ablab.results.factors import settings_of


def check_declared(declared: ComparisonConfig, planned: Runs) -> None:
    """Ask of planned runs what the comparison will ask of finished ones.

    Args:
        planned: runs as they will have been, with every metric that is known of; without metrics where none is.

    Raises:
        UserError: an unknown baseline, metric or condition, a margin that is not positive, or more evaluations than
            there will be.
    """
    check_margin(declared.margin)
    _check_conditions(declared.within, planned)
    choose_baselines(planned, declared.baseline)
    for task in planned.tasks:
        _check_metric(declared, planned, task)


def _check_conditions(within: list[str], planned: Runs) -> None:
    settings = settings_of(planned.records)
    known = {key for record, setting in zip(planned.records, settings, strict=True) for key in (*record.axes, *setting)}
    for key in within:
        if key not in known:
            raise UserError(f"comparison.within: no run has a setting {key}{nearest(key, known, planned.factors)}")


def _check_metric(declared: ComparisonConfig, planned: Runs, task: str) -> None:
    metrics_known = any(record.metrics for record in planned.records)
    own, elsewhere, _ = (declared.metric or "").partition(AT)  # of an evaluation that comes later
    if elsewhere and declared.last_k > 1:
        raise UserError(f"comparison.last_k={declared.last_k}: {declared.metric} is one evaluation of each run")
    wanted = own if own and metrics_known and not _told_in_training(own) else None
    metric, _, _ = choose_metric(planned, task, wanted, declared.split)
    check_last(planned, metric, declared.last_k)
    most = max((len(record.last.get(metric, ())) for record in planned.records), default=0)
    if metrics_known and 0 < most < declared.last_k:
        raise UserError(
            f"comparison.last_k={declared.last_k}: each run is evaluated {most} times; give fewer, or a smaller "
            "trainer.val_check_interval"
        )


def _told_in_training(metric: str | None) -> bool:
    """Whether a metric is of those that only training can tell the names of."""
    axis = AXES.get((metric or "").partition("/")[0])
    return axis is not None and axis.mechanism is None
