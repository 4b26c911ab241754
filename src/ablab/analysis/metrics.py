"""Which metric is compared on which task, and in which direction it is good."""

from __future__ import annotations

import dataclasses
import shlex

from ablab.config.nearest import nearest
from ablab.config.overrides import BETWEEN_OVERRIDES
from ablab.config.value_types import is_number
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.evaluation import AT, CHECKPOINT, metric_name
from ablab.results.record import KEPT_EVALUATIONS, Cost, Direction, Metric

# A metric that no task has declared is judged by its name; the comparison says that it was.
_HIGHER_IS_BETTER = ("acc", "f1", "bleu", "rouge", "auc", "recall", "precision", "exact", "per_second")
_PREFIXES = {"validation": "val", "test": "test"}  # of the names of their metrics
_COSTS = [field.name for field in dataclasses.fields(Cost)]


def available(runs: Runs) -> list[str]:
    """Every number that some run has: metrics, those of evaluations elsewhere too; mechanism metrics; costs."""
    metrics = {name for record in runs.records for name in record.measured}
    mechanism = {name for record in runs.records for name in record.mechanism}
    costs = [name for name in _COSTS if any(is_number(getattr(record.cost, name)) for record in runs.records)]
    return [*sorted(metrics), *sorted(mechanism), *costs]


def choose_metric(runs: Runs, task: str, wanted: str | None, split: str | None = None) -> tuple[str, Direction, bool]:
    """The metric of `task`, its direction, and whether the direction is guessed by the name.

    The metric is the task's primary one unless another is `wanted`; "" if no run got as far as naming one.

    Args:
        split: "validation" or "test", of the primary metric; None: the one that it is of.

    Raises:
        UserError: no run has the wanted metric, or none on this task has the primary one of that split.
    """
    primary = runs.primary.get(task)
    if wanted is None:
        if primary is None:
            return "", "min", False
        name = on_split(primary, split)
        _check_split(runs, task, name, split)
        return name, primary.direction, False
    names, wanted = available(runs), metric_name(wanted)
    if wanted not in names:
        raise UserError(f"metric {wanted}: no run has it{_not_evaluated(wanted, names) or nearest(wanted, names)}")
    return directed(wanted, primary_at(runs, wanted) or primary)


def on_split(primary: Metric, split: str | None) -> str:
    """The name of a primary metric on another split: "test_loss" of "val_loss"."""
    return f"{_PREFIXES[split]}_{_stem(primary.name)}" if split else primary.name


def split_of(metric: str) -> str | None:
    """ "validation" or "test", by the name of a metric; None for one of neither."""
    return next((split for split, prefix in _PREFIXES.items() if metric.startswith(f"{prefix}_")), None)


def _check_split(runs: Runs, task: str, name: str, split: str | None) -> None:
    found = [record.metrics for place, record in zip(runs.table["task"], runs.records, strict=True) if place == task]
    if split and any(found) and not any(name in metrics for metrics in found):
        raise UserError(f"split {split}: no run on {task} has {name}; leave the split out, or compare other tasks")


def primary_at(runs: Runs, metric: str) -> Metric | None:
    """The primary metric of the evaluation elsewhere that `metric` is of; None where it is the runs' own."""
    name = metric.partition(AT)[2]
    found = (record.evaluations[name].primary for record in runs.records if name in record.evaluations)
    return next(found, None)


def pending(runs: Runs, wanted: str | None) -> str:
    """The arguments of `ablab evaluate` that give a metric which no run has, "" where it needs none."""
    at = metric_name(wanted or "").partition(AT)[2]
    return "" if not at or any(at in record.evaluations for record in runs.records) else arguments(at)


def arguments(evaluation: str) -> str:
    """What `ablab evaluate` is given to make an evaluation of that name."""
    words = BETWEEN_OVERRIDES.split(evaluation)
    return " ".join(
        f"--{word.replace('=', ' ')}" if word.startswith(f"{CHECKPOINT}=") else shlex.quote(word) for word in words
    )


def _not_evaluated(wanted: str, names: list[str]) -> str:
    """What to do about a metric of an evaluation that has not been made."""
    metric, _, at = wanted.partition(AT)
    if not at or metric not in names or any(name.endswith(f"{AT}{at}") for name in names):
        return ""
    return f", since none was evaluated there: ablab evaluate DIR {arguments(at)}"


def check_last(runs: Runs, metric: str, last_k: int) -> None:
    """Whether a mean of the last `last_k` evaluations of `metric` can be asked for.

    Raises:
        UserError: there are no such means, or runs have the metric and none of them kept more than the final value.
    """
    if not 1 <= last_k <= KEPT_EVALUATIONS:
        raise UserError(f"last {last_k}: runs keep their last {KEPT_EVALUATIONS} evaluations; give 1 to that many")
    if last_k == 1 or not metric:
        return
    kept = {name for record in runs.records for name in record.last}
    if metric not in kept and metric in available(runs):
        why = (
            f"those that are: {', '.join(sorted(kept))}"
            if kept
            else "runs of earlier versions keep the final one alone"
        )
        raise UserError(f"last {last_k}: no run kept its evaluations of {metric}; {why}")


def directed(wanted: str, primary: Metric | None) -> tuple[str, Direction, bool]:
    """A metric, its direction, and whether that is guessed by the name: it is known of the primary one of a task."""
    quantity = _quantity(wanted)
    if primary and _quantity(primary.name) == quantity:
        return wanted, primary.direction, False
    higher = any(word in quantity.lower() for word in _HIGHER_IS_BETTER)
    return wanted, "max" if higher else "min", True


def _quantity(metric: str) -> str:
    """What is measured, wherever: "loss" of "val_loss", and of "test_loss/length=64@task=recall"."""
    own = metric.partition(AT)[0]
    stem = _stem(own)
    return own if stem == own else stem.partition("/")[0]  # "axis/name", of a mechanism, has no split


def _stem(name: str) -> str:
    """The metric without its split: "val_loss" and "test_loss" are good in the same direction."""
    split, _, rest = name.partition("_")
    return rest if split in ("train", "val", "test") else name
